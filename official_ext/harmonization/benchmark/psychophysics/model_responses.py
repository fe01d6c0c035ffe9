# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Computes a network's responses to the stimuli of the experiment."""

import base64
from collections.abc import Sequence

import numpy as np
from PIL import Image
import tqdm

from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark.psychophysics import decisions
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.stimuli import stimulus_files


def read_image(
  folder: str, file: str, size: Sequence[int], framing: str = 'resize'
) -> np.ndarray:
  """Reads a stimulus at a network's input size.

  Args:
    folder: of the stimuli.
    file: path of the stimulus below the folder.
    size: height and width in pixels.
    framing: resize mode: 'resize' (bilinear, antialiased), or 'center_crop',
      which crops the stimulus without resizing it.

  Returns:
    float32 (height, width, 3), RGB, 0..255.

  Raises:
    ValueError: the file is not an image, or is smaller than the crop.
  """
  height, width = size
  try:
    picture = Image.fromarray(
      image_codec.decode_image(map_files.read_file(folder, file))
    )
  except ValueError as e:
    raise ValueError(f'{folder}/{file}: {e}. Replace the file.') from None
  if framing == 'resize':
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
  else:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    if left < 0 or top < 0:
      raise ValueError(
        f'{folder}/{file} is {picture.height} x {picture.width}; expected at '
        f"least the network's {height} x {width} for framing=center_crop. Use "
        'framing=resize.'
      )
    picture = picture.crop((left, top, left + width, top + height))
  return np.asarray(picture, np.float32)


def _logits(adapter, folder, stimuli, batch_size, framing):
  """Yields the logits of the stimuli, batch by batch."""
  bar = tqdm.tqdm(
    total=len(stimuli),
    desc=f'{adapter.name}: psychophysics',
    unit=' stimuli',
    disable=None,
  )
  with bar:
    for start in range(0, len(stimuli), batch_size):
      batch = stimuli[start : start + batch_size]
      images = np.stack(
        [read_image(folder, s.file, adapter.input_size, framing) for s in batch]
      )
      logits = np.asarray(adapter.logits(adapter.preprocess(images)))
      bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
      if bad.size:
        raise ValueError(
          f'{adapter.name}: a logit for {folder}/{batch[bad[0]].file} is not '
          'finite; expected finite logits. Check the weights and the '
          'preprocessing.'
        )
      yield logits
      bar.update(len(batch))


def decide(
  adapter,
  folder: str,
  stimuli: Sequence[stimulus_files.Stimulus],
  *,
  rule: str = 'split_398',
  animal_classes: Sequence[int] | None = None,
  batch_size: int = 32,
  framing: str = 'resize',
  seed: int = 0,
  journal: journal_lib.Journal | None = None,
) -> np.ndarray:
  """Returns a network's responses.

  Args:
    adapter: the network, an `adapters.base.Adapter`.
    folder: of the stimuli.
    stimuli: stimuli in the folder.
    rule: one of `decisions.RULES`; 'readout' is the linear probe.
    animal_classes: indices of the network's animal classes; None for
      ImageNet's.
    batch_size: stimuli in memory at a time.
    framing: resize mode, as in `read_image`.
    seed: of the linear probe's folds.
    journal: keeps the results of finished batches, so that a killed process can
      resume; None to keep nothing. Its items are responses, or for the linear
      probe encoded logits.

  Returns:
    bool (n,), True for the response animal.

  Raises:
    ValueError: the rule or the classes do not fit the network, or a stimulus
      cannot be read.
  """
  is_probe = rule == 'readout'
  if is_probe and animal_classes is not None:
    raise ValueError(
      f'animal_classes is {list(animal_classes)}; expected None with the rule '
      'readout, which learns the decision from the logits. Remove it.'
    )
  answer = decisions.split if rule == 'split_398' else decisions.mean_logit
  items = journal_lib.kept(journal)
  for logits in _logits(
    adapter, folder, stimuli[len(items) :], batch_size, framing
  ):
    if is_probe:
      found = [_encode(row) for row in logits]
    else:
      mask = decisions.animal_mask(logits.shape[1], animal_classes)
      found = answer(logits, mask).tolist()
    items += found
    if journal:
      journal.add(found)
  if not is_probe:
    return np.array(items, bool)
  images = np.array([s.image for s in stimuli])
  animals = np.array([s.target == stimulus_files.ANIMAL for s in stimuli])
  full = np.array([s.level == stimulus_files.FULL for s in stimuli])
  return decisions.linear_probe(
    np.stack([_decode(item) for item in items]), images, animals, full, seed
  )


def _encode(logits: np.ndarray) -> str:
  """Encodes the logits of one stimulus as text, without loss."""
  return base64.b64encode(np.asarray(logits, '<f4').tobytes()).decode()


def _decode(text: str) -> np.ndarray:
  """Inverts `_encode`."""
  return np.frombuffer(base64.b64decode(text), '<f4')
