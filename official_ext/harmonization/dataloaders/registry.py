"""The record formats that hold images with human maps, by name."""

from typing import List

from official.vision.dataloaders import decoder
from official_ext.harmonization.dataloaders import clickme_decoder

_DECODERS = {
    'clickme': clickme_decoder.Decoder,
}


def names() -> List[str]:
  """Returns the names of the known formats."""
  return sorted(_DECODERS)


def get_decoder(name: str) -> decoder.Decoder:
  """Returns the decoder of a format.

  Args:
    name: one of `names()`.

  Returns:
    A decoder with the interface of `clickme_decoder.Decoder`.

  Raises:
    ValueError: the format is not known.
  """
  if name not in _DECODERS:
    raise ValueError(f'Unknown map_decoder {name!r}: choose one of {names()}.')
  return _DECODERS[name]()
