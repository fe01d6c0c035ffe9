# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The models that a command names by SPECs, and their names.

(model,) = model_specs.parse_all(['keras:vgg.h5?name=VGG16'])
model.name  # 'VGG16'
"""

from collections.abc import Sequence
import dataclasses
import os
import re
from typing import Any

from etils import epy

from official_ext.harmonization import option_values
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.adapters import spec as spec_lib

with epy.lazy_imports():
  import tensorflow as tf

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9 ._+-]*')
# The files in a model's folder that change with the model, and not when it is
# only opened.
_MODEL_FILES = (
  'checkpoint',
  'params.yaml',
  'saved_model.pb',
  'variables/variables.index',
)


@dataclasses.dataclass(frozen=True)
class Model:
  """A model to be measured.

  Attributes:
    name: in tables and file names.
    spec: the SPEC of its adapter.
    names: the target of the SPEC and the values of its options, some of which
      are files or folders.
    twin_of: name of the network that this one is a random twin of, or ''.
    seed: of the random twin's weights.
    group: name of the network that this run is one of several of, or ''.
    size_of: name of the network that this is at another input size, or ''.
    input_size: that size, as in the option of the SPEC.
  """

  name: str
  spec: str
  names: Sequence[str]
  twin_of: str = ''
  seed: int = 0
  group: str = ''
  size_of: str = ''
  input_size: str = ''

  @property
  def control(self) -> str:
    """The name of a control, such as 'centre'; '' for a network."""
    kind, _, name = self.spec.partition(':')
    return name if kind == 'control' else ''

  def settings(self) -> dict[str, Any]:
    """Returns the SPEC, and size and time of the files that it names."""
    files = {}
    for name in self.names:
      files.update(_fingerprint(resources.working_path(name)))
    settings = {'spec': self.spec, 'files': files}
    if self.twin_of:
      settings.update(random_twin_of=self.twin_of, seed=self.seed)
    if self.group:
      settings['group'] = self.group
    if self.size_of:
      settings['input_size_of'] = self.size_of
    return settings


def _fingerprint(path: str) -> dict[str, list[int]]:
  """Returns size in bytes and time in seconds of the files of a model."""
  names = _MODEL_FILES if tf.io.gfile.isdir(path) else ('',)
  stats = {}
  for name in names:
    file = os.path.join(path, name) if name else path
    if tf.io.gfile.exists(file):
      found = tf.io.gfile.stat(file)
      stats[name or os.path.basename(file)] = [
        found.length,
        found.mtime_nsec // 10**9,
      ]
  return stats


def parse(text: str) -> Model:
  """Reads a SPEC.

  Args:
    text: the SPEC. Without the option `name`, the name of the model is the last
      part of the target.

  Returns:
    The model.

  Raises:
    protocol.SettingsError: the text is not a SPEC, or the name is not valid in
      file names.
  """
  try:
    _, target, options = spec_lib.parse(text)
  except ValueError as e:
    raise protocol.SettingsError(str(e)) from None
  last = os.path.basename(target.rstrip('/'))
  stem = re.sub(r'\.(keras|h5|hdf5)$', '', last)
  name = options.get('name', stem)
  group = options.get(spec_lib.GROUP, '')
  for what, found in (('model', name), ('group', group or name)):
    if not _NAME.fullmatch(found):
      raise protocol.SettingsError(
        f'{text}: the {what} would be called {found!r}; expected one '
        'of A-Z, a-z and 0-9, followed by these, spaces and . _ + -. Set a '
        'name '
        f"with 'KIND:TARGET?{'name' if what == 'model' else 'group'}=NAME'."
      )
  return Model(name, text, [target, *options.values()], group=group)


def controls() -> list[Model]:
  """Returns the rows without a network, see `benchmark.controls`."""
  return [
    Model(option_values.CONTROL_PREFIX + name, f'control:{name}', ())
    for name in option_values.CONTROLS
  ]


def at_sizes(
  models: Sequence[Model], input_sizes: Sequence[str]
) -> list[Model]:
  """Returns each model at each input size, if its kind has such an option.

  Their names contain @, which names that users choose do not.
  """
  found = [
    dataclasses.replace(
      model,
      name=f'{model.name}@{size}',
      spec=spec_lib.replaced(model.spec, input_size=size),
      group=f'{model.group}@{size}' if model.group else '',
      size_of=model.name,
      input_size=size,
    )
    for model in models
    for size in input_sizes
  ]
  return [model for model in found if _is_spec(model.spec)]


def _is_spec(spec: str) -> bool:
  """Whether a kind of network has all options of a SPEC."""
  try:
    spec_lib.check(spec)
  except ValueError:
    return False
  return True


def random_twins(models: Sequence[Model], count: int) -> list[Model]:
  """Returns `count` networks with fresh weights for each model.

  Runs of one group have the same architecture, so that only the first has them.
  """
  firsts = {model.group or model.name: model for model in reversed(models)}
  return [
    dataclasses.replace(
      model,
      name=f'random-{model.group or model.name}-{seed}',
      twin_of=model.name,
      seed=seed,
      group='',
    )
    for model in models
    if firsts[model.group or model.name] is model
    for seed in range(count)
  ]


def parse_all(texts: Sequence[str]) -> list[Model]:
  """Reads SPECs.

  Args:
    texts: the SPECs.

  Returns:
    The models.

  Raises:
    protocol.SettingsError: there are no SPECs, one cannot be read, two have the
      same name, or a name is that of a group, a control or a random twin.
  """
  if not texts:
    raise protocol.SettingsError('No model was given. Add --model=KIND:TARGET.')
  by_name: dict[str, Model] = {}
  for model in map(parse, texts):
    # Some file systems do not distinguish upper and lower case.
    other = by_name.setdefault(model.name.lower(), model)
    if other is not model:
      both = (
        f'both be called {model.name!r}'
        if other.name == model.name
        else (
          f'be called {other.name!r} and {model.name!r}, which some file '
          'systems do not distinguish'
        )
      )
      raise protocol.SettingsError(
        f'{other.spec} and {model.spec} would {both}; expected different '
        "names. Set them with --model='KIND:TARGET?name=NAME'."
      )
  for model in by_name.values():
    other = by_name.get(model.group.lower())
    if other:
      raise protocol.SettingsError(
        f'{model.spec}: group={model.group} is the name of the model '
        f'{other.spec}; expected another. Change one of the names.'
      )
  models = list(by_name.values())
  _refuse_reserved(models)
  return models


def _refuse_reserved(models: Sequence[Model]):
  """Refuses names of controls and random twins, whose files they would be."""
  reserved = {row.name for row in controls()}
  networks = {name.lower() for name in rows(models)}
  for model in models:
    for option, name in (('name', model.name), (spec_lib.GROUP, model.group)):
      twin = re.fullmatch(r'random-(.+?)(-\d+)?', name.lower())
      if name.lower() in reserved or (twin and twin[1] in networks):
        kind = 'random twin' if twin else 'control'
        raise protocol.SettingsError(
          f'{model.spec}: {name} is the name of a {kind}; expected another. '
          f"Set it with --model='KIND:TARGET?{option}=NAME'."
        )


def rows(models: Sequence[Model]) -> list[str]:
  """Returns the names of the models' rows; runs of a group share one."""
  return list(dict.fromkeys(model.group or model.name for model in models))
