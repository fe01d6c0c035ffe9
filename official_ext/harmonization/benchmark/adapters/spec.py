"""The grammar in which commands are told which networks to evaluate.

  KIND:TARGET
  KIND:TARGET?OPTION=VALUE
  KIND:TARGET?OPTION=VALUE&OPTION=VALUE

such as `keras:runs/vgg.h5?preprocessing=caffe&name=VGG16`. In a shell it must
stand in quotes. Nothing in it is escaped, so that neither targets nor values
can hold a question mark, nor values an ampersand.
"""

from collections.abc import Callable
import fractions
import inspect
from typing import Any, NamedTuple

from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import harmonized
from official_ext.harmonization.benchmark.adapters import keras_applications
from official_ext.harmonization.benchmark.adapters import keras_file
from official_ext.harmonization.benchmark.adapters import model_garden
from official_ext.harmonization.benchmark.adapters import preprocessing
from official_ext.harmonization.benchmark.adapters import saved_model
from official_ext.harmonization.benchmark.adapters import sizes
from official_ext.harmonization.benchmark.adapters import torch_module
from official_ext.harmonization.benchmark.adapters import torch_zoos


class Kind(NamedTuple):
  """A kind of network.

  Attributes:
    build: `build(spec, target, **options)`, its options keyword-only.
    target: what stands after the colon.
    example: of a SPEC.
  """

  build: Callable[..., base.Adapter]
  target: str
  example: str


KINDS = {
  'mg': Kind(
    model_garden.build, 'the folder of a run', 'mg:runs/digits/harmonized'
  ),
  'saved_model': Kind(
    saved_model.build,
    'the folder of a SavedModel with a float input',
    'saved_model:exported?preprocessing=torch',
  ),
  'keras': Kind(
    keras_file.build,
    'a .keras or .h5 file',
    'keras:vgg.h5?preprocessing=caffe&name=VGG16',
  ),
  'keras_app': Kind(
    keras_applications.build,
    'a function of tf_keras.applications',
    'keras_app:ResNet50V2',
  ),
  'harmonized': Kind(
    harmonized.build, 'a released harmonized network', 'harmonized:vgg16'
  ),
  'torch': Kind(
    torch_module.build,
    'a function that returns a torch.nn.Module',
    'torch:my_package.my_function?input_size=224&weights=w.pt',
  ),
  'timm': Kind(torch_zoos.build_timm, 'a network of timm', 'timm:resnet50'),
  'torchvision': Kind(
    torch_zoos.build_torchvision,
    'a network of torchvision',
    'torchvision:resnet50',
  ),
}


def _boolean(value: str) -> bool:
  if value not in ('true', 'false'):
    raise ValueError(f'{value!r} is neither true nor false')
  return value == 'true'


def _count(value: str) -> int:
  if not value.isdecimal() or not int(value):
    raise ValueError(f'{value!r} is not a whole number above 0')
  return int(value)


def _numbers(value: str) -> tuple[float, ...]:
  """Parses numbers, or fractions such as 1/255, with commas between them."""
  try:
    return tuple(
      float(fractions.Fraction(n)) if '/' in n else float(n)
      for n in value.split(',')
    )
  except (ValueError, ZeroDivisionError):
    raise ValueError(
      f'{value!r} is not a number, a fraction such as 1/255, or '
      'three of them with commas between them'
    ) from None


# How the values of options are read that are not text.
_PARSERS = {
  'input_size': sizes.parse,
  'ema': _boolean,
  'classes': _count,
  'mean': _numbers,
  'std': _numbers,
  'scale': _numbers,
}
# Options of every kind, in place of a named preprocessing.
_AFFINE = ('mean', 'std', 'scale')


def usage() -> str:
  """Describes the grammar and its kinds, one line for each."""
  lines = ['A SPEC is KIND:TARGET, or KIND:TARGET?OPTION=VALUE&OPTION=VALUE.']
  for name, kind in KINDS.items():
    options = ', '.join(options_of(kind))
    lines.append(
      f'  {kind.example}  ({name}: {kind.target}; options: {options})'
    )
  return '\n'.join(lines)


def options_of(kind: Kind) -> tuple[str, ...]:
  """Returns the names of the options that a kind takes."""
  parameters = inspect.signature(kind.build).parameters.values()
  return (*(p.name for p in parameters if p.kind is p.KEYWORD_ONLY), *_AFFINE)


def _affine(options: dict[str, Any]) -> preprocessing.Preprocessing:
  """Makes a preprocessing of the options mean, std and scale."""
  mean, stddev = options.get('mean', (0.0,)), options.get('std', (1.0,))
  scale = options.get('scale', (1.0,))
  if 'preprocessing' in options:
    raise ValueError(
      'preprocessing= and mean=, std= or scale= exclude each '
      'other: write one of them'
    )
  if len(scale) != 1:
    raise ValueError(f'scale={",".join(map(str, scale))}; expected one number')
  # First whether they are numbers to divide by at all.
  made = preprocessing.affine(mean, stddev, scale[0])
  if 'scale' not in options and (
    max(stddev) < 1 or max(stddev) == 1 and 0 < max(map(abs, mean)) <= 1
  ):
    raise ValueError(
      f'mean={",".join(map(str, mean))} and std='
      f'{",".join(map(str, stddev))} are for pixels in 0..1, and pixels are '
      'in 0..255: write scale=1/255 too, or scale=1 if they are right'
    )
  return made


def parse(spec: str) -> tuple[str, str, dict[str, str]]:
  """Takes a SPEC apart.

  Args:
    spec: as the user wrote it.

  Returns:
    Kind, target and options.

  Raises:
    ValueError: it does not follow the grammar.
  """
  kind, colon, rest = spec.partition(':')
  target, question, text = rest.partition('?')
  if not colon or kind not in KINDS or not target:
    raise ValueError(f'{spec!r} names no model. {usage()}')
  options = {}
  for part in text.split('&') if question else ():
    name, equals, value = part.partition('=')
    if not (name and equals and value) or name in options:
      raise ValueError(
        f'{spec!r}: {part!r} is no OPTION=VALUE, or stands '
        f'there twice. {usage()}'
      )
    options[name] = value
  return kind, target, options


def build(spec: str, **options: Any) -> base.Adapter:
  """Builds the adapter of a SPEC.

  Args:
    spec: see the module.
    **options: more options, as text or as what the text stands for; those of
      the SPEC win.

  Returns:
    The adapter.

  Raises:
    ValueError: the SPEC or an option is wrong, or the network cannot be scored.
    OSError: its file or folder is not there, or cannot be downloaded.
    ImportError: a package that it needs is not installed.
  """
  name, target, written = parse(spec)
  kind = KINDS[name]
  options = {**options, **written}
  unknown = sorted(set(options) - set(options_of(kind)))
  if unknown:
    raise ValueError(
      f'{spec!r}: {name}: has no option {", ".join(unknown)}; '
      f'it has {", ".join(options_of(kind))}.'
    )
  for option, value in options.items():
    if isinstance(value, str) and option in _PARSERS:
      try:
        options[option] = _PARSERS[option](value)
      except ValueError as e:
        raise ValueError(f'{spec!r}: {option}: {e}.') from None
  if any(option in options for option in _AFFINE):
    try:
      options = {
        'preprocessing': _affine(options),
        **{k: v for k, v in options.items() if k not in _AFFINE},
      }
    except ValueError as e:
      raise ValueError(f'{spec!r}: {str(e).rstrip(".")}.') from None
  return kind.build(spec, target, **options)
