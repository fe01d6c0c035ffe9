# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""SPEC: the text by which a command is given a network.

  KIND:TARGET
  KIND:TARGET?OPTION=VALUE
  KIND:TARGET?OPTION=VALUE&OPTION=VALUE

for example `keras:runs/vgg.h5?preprocessing=caffe&name=VGG16`. Quote it in a
shell. Nothing is escaped: a target or value cannot contain a question mark, and
a value cannot contain an ampersand.

From a SPEC to a score: `check` refuses what is wrong in the text before any
network is opened. `build` calls the `build` function of the kind's module
(`keras_file.build` for `keras:`), which opens the network and returns a
`base.Adapter`; a protocol calls the adapter's `preprocess`, `logits` and
`gradients`.
"""

from collections.abc import Callable
import fractions
from typing import Any, NamedTuple

from etils import epy

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark.adapters import sizes

# --help lists the kinds, and must not wait for TensorFlow.
with epy.lazy_imports():
  from official_ext.harmonization.benchmark.adapters import harmonized
  from official_ext.harmonization.benchmark.adapters import keras_applications
  from official_ext.harmonization.benchmark.adapters import keras_file
  from official_ext.harmonization.benchmark.adapters import model_garden
  from official_ext.harmonization.benchmark.adapters import preprocessing
  from official_ext.harmonization.benchmark.adapters import saved_model
  from official_ext.harmonization.benchmark.adapters import torch_module
  from official_ext.harmonization.benchmark.adapters import torch_zoos


class Kind(NamedTuple):
  """A kind of network.

  Attributes:
    module: the adapter's module, not yet imported.
    target: describes the text after the colon.
    example: a SPEC.
    options: names of the keyword arguments of the function. They repeat its
      signature, because reading a signature imports the module; a test compares
      the two.
    function: of the module: `build(spec, target, **options)`.
    lookup: of the module: `lookup(spec, target)` raises ValueError or
      ImportError if the target is the name of nothing, without opening a
      network. Empty if the target is a file or folder.
  """

  module: Any
  target: str
  example: str
  options: tuple[str, ...]
  function: str = 'build'
  lookup: str = ''

  @property
  def build(self) -> Callable[..., Any]:
    """The function that opens a network; getting it imports its module."""
    return getattr(self.module, self.function)


KINDS = {
  'mg': Kind(
    model_garden,
    'the folder of a run',
    'mg:runs/digits/harmonized',
    ('name', 'checkpoint', 'ema', 'preprocessing'),
  ),
  'saved_model': Kind(
    saved_model,
    'the folder of a SavedModel with a float input',
    'saved_model:exported?preprocessing=torch',
    ('name', 'preprocessing', 'input_size', 'signature', 'output'),
  ),
  'keras': Kind(
    keras_file,
    'a .keras or .h5 file',
    'keras:vgg.h5?preprocessing=caffe&name=VGG16',
    ('name', 'preprocessing', 'input_size', 'output'),
  ),
  'keras_app': Kind(
    keras_applications,
    'a function of tf_keras.applications',
    'keras_app:ResNet50V2',
    ('name', 'weights', 'classes', 'preprocessing', 'input_size'),
    lookup='lookup',
  ),
  'harmonized': Kind(
    harmonized,
    'a released harmonized network',
    'harmonized:vgg16',
    ('name', 'weights', 'preprocessing'),
    lookup='lookup',
  ),
  'torch': Kind(
    torch_module,
    'a function that returns a torch.nn.Module',
    'torch:my_package.my_function?input_size=224&weights=w.pt',
    (
      'name',
      'weights',
      'preprocessing',
      'input_size',
      'output',
      'weights_key',
    ),
    lookup='lookup',
  ),
  'timm': Kind(
    torch_zoos,
    'a network of timm',
    'timm:resnet50',
    ('name', 'weights', 'preprocessing', 'input_size', 'weights_key'),
    'build_timm',
    'lookup_timm',
  ),
  'torchvision': Kind(
    torch_zoos,
    'a network of torchvision',
    'torchvision:resnet50',
    ('name', 'weights', 'preprocessing', 'input_size', 'weights_key'),
    'build_torchvision',
    'lookup_torchvision',
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
  """Parses numbers or fractions such as 1/255, separated by commas."""
  try:
    return tuple(
      float(fractions.Fraction(n)) if '/' in n else float(n)
      for n in value.split(',')
    )
  except (ValueError, ZeroDivisionError):
    raise ValueError(
      f'{value!r} is not a number, a fraction such as 1/255, or '
      'three of them separated by commas'
    ) from None


# Parsers of the options that are not text.
_PARSERS = {
  'input_size': sizes.parse,
  'ema': _boolean,
  'classes': _count,
  'mean': _numbers,
  'std': _numbers,
  'scale': _numbers,
}
# Options of every kind, which replace a named preprocessing.
_AFFINE = ('mean', 'std', 'scale')
# Names the network that runs with several seeds belong to; it does not change
# how a run is opened.
GROUP = 'group'


def usage() -> str:
  """Describes the grammar and, one per line, the kinds."""
  lines = ['A SPEC is KIND:TARGET, or KIND:TARGET?OPTION=VALUE&OPTION=VALUE.']
  for name, kind in KINDS.items():
    options = ', '.join(options_of(kind))
    lines.append(
      f'  {kind.example}  ({name}: {kind.target}; options: {options})'
    )
  return '\n'.join(lines)


def options_of(kind: Kind) -> tuple[str, ...]:
  """Returns the names of the options that a kind accepts."""
  return (*kind.options, *_AFFINE, GROUP)


def _affine(options: dict[str, Any]):
  """Returns the `Preprocessing` of the options mean, std and scale."""
  mean, stddev = options.get('mean', (0.0,)), options.get('std', (1.0,))
  scale = options.get('scale', (1.0,))
  if 'preprocessing' in options:
    raise ValueError(
      'preprocessing= excludes mean=, std= and scale=; write one or the other'
    )
  if len(scale) != 1:
    raise ValueError(f'scale={",".join(map(str, scale))}; expected one number')
  # This also checks the numbers, so it comes before the comparison below.
  made = preprocessing.affine(mean, stddev, scale[0])
  if 'scale' not in options and (
    max(stddev) < 1 or max(stddev) == 1 and 0 < max(map(abs, mean)) <= 1
  ):
    raise ValueError(
      f'mean={",".join(map(str, mean))} and std='
      f'{",".join(map(str, stddev))} fit pixels in 0..1, but pixels are in '
      '0..255; add scale=1/255, or scale=1 if the numbers are right'
    )
  return made


def parse(spec: str) -> tuple[str, str, dict[str, str]]:
  """Parses a SPEC.

  Args:
    spec: as the user wrote it.

  Returns:
    The kind, the target, and the options as text.

  Raises:
    ValueError: the SPEC does not follow the grammar.
  """
  kind, colon, rest = spec.partition(':')
  target, question, text = rest.partition('?')
  if not colon or not target:
    raise ValueError(
      f'{spec!r} is not a SPEC; expected KIND:TARGET, such as '
      f'{KINDS[kind].example if kind in KINDS else "keras_app:ResNet50"}. '
      '--help lists the kinds.'
    )
  choices.require(f'{spec!r}: the kind', kind, KINDS)
  options = {}
  for part in text.split('&') if question else ():
    name, equals, value = part.partition('=')
    if not (name and equals and value) or name in options:
      raise ValueError(
        f'{spec!r}: {part!r} is not OPTION=VALUE, or its option occurs '
        f'twice; the options of {kind} are '
        f'{", ".join(options_of(KINDS[kind]))}.'
      )
    options[name] = value
  return kind, target, options


def replaced(spec: str, **options: str) -> str:
  """Returns a SPEC with other values of options.

    replaced('timm:resnet50?name=r', input_size='160')
    # 'timm:resnet50?name=r&input_size=160'

  Args:
    spec: as the user wrote it.
    **options: replace those of the SPEC, or are added.

  Raises:
    ValueError: the SPEC does not follow the grammar.
  """
  kind, target, written = parse(spec)
  text = '&'.join(f'{k}={v}' for k, v in {**written, **options}.items())
  return f'{kind}:{target}' + (f'?{text}' if text else '')


def _resolve(
  spec: str, options: dict[str, Any]
) -> tuple[Kind, str, dict[str, Any]]:
  """Returns the kind, the target and the parsed options of a SPEC.

  Args:
    spec: as the user wrote it.
    options: further options; those in the SPEC take precedence.

  Raises:
    ValueError: the SPEC or an option is wrong.
  """
  name, target, written = parse(spec)
  kind = KINDS[name]
  options = {**options, **written}
  known = options_of(kind)
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise ValueError(
      f'{spec!r}: {name}: has no option {", ".join(unknown)}; expected '
      f'{", ".join(known)}.' + choices.did_you_mean(unknown[0], known)
    )
  for option, value in options.items():
    if isinstance(value, str) and option in _PARSERS:
      try:
        options[option] = _PARSERS[option](value)
      except ValueError as e:
        raise ValueError(f'{spec!r}: {option}: {e}.') from None
  try:
    if any(option in options for option in _AFFINE):
      options = {
        'preprocessing': _affine(options),
        **{k: v for k, v in options.items() if k not in _AFFINE},
      }
    if 'preprocessing' in options:
      preprocessing.get(options['preprocessing'])
  except ValueError as e:
    raise ValueError(f'{spec!r}: {str(e).rstrip(".")}.') from None
  options.pop(GROUP, None)
  return kind, target, options


def check(spec: str):
  """Checks names and options of a SPEC without opening its network.

  Files and folders may be missing, because they may be written before the
  network is opened.

  Args:
    spec: as described at the top of this module.

  Raises:
    ValueError: the SPEC, an option or the network's name is wrong.
    ImportError: a package that the network needs is not installed, or has no
      such function.
  """
  kind, target, _ = _resolve(spec, {})
  if kind.lookup:
    getattr(kind.module, kind.lookup)(spec, target)


def build(spec: str, **options: Any):
  """Opens the network that a SPEC names.

    adapter = spec.build('keras_app:ResNet50V2', weights='none')
    logits = adapter.logits(adapter.preprocess(images))

  Args:
    spec: as described at the top of this module.
    **options: further options, as text or already parsed; options in the SPEC
      take precedence.

  Returns:
    A `base.Adapter`.

  Raises:
    ValueError: the SPEC or an option is wrong, or the network cannot be scored.
    OSError: a file or folder is missing, or cannot be downloaded.
    ImportError: a package that the network needs is not installed.
  """
  kind, target, options = _resolve(spec, options)
  return kind.build(spec, target, **options)


def randomized(spec: str, seed: int, **options: Any):
  """Opens the untrained twin of a network: its weights are drawn anew.

    twin = spec.randomized('torch:my_package.network', 0)

  Args:
    spec: as for `build`. Its weights are read before they are replaced.
    seed: of the weights, see `fresh_weights`.
    **options: as for `build`.

  Returns:
    A `base.Adapter` called random-<name>-<seed>, with the preprocessing, input
    size and outputs of the network.

  Raises:
    fresh_weights.Unavailable: the weights cannot be drawn anew, as for a
      SavedModel.
    ValueError, OSError, ImportError: as for `build`.
  """
  adapter = build(spec, **options)
  adapter.randomize(seed)
  adapter.name = f'random-{adapter.name}-{seed}'
  return adapter
