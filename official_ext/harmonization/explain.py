r"""Draws where a network looks: saliency panels of one image or a folder.

  python -m official_ext.harmonization.explain \
      --model='keras_app:ResNet50V2' --images=photos --maps=human_maps \
      --output_dir=runs/panels

Each row of a panel is an image, the human map with the same path below --maps
where there is one, and the network's map of the class that it predicts, or of
the class in --labels. Images are shown as the network takes them: whole, at its
input size. A model is KIND:TARGET?OPTION=VALUE; docs/models.md lists the kinds.
Run it again to resume: a panel is drawn again only if the network, an image, a
map or a class has changed, and the earlier one is then kept in earlier/.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import io
import os
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import drawn_panels
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import map_framing
from official_ext.harmonization.data.maps import map_index
from official_ext.harmonization.data.maps import pairs
from official_ext.harmonization.data.records import class_labels
from official_ext.harmonization.evaluation import panels

FLAGS = flags.FLAGS

# Of what a panel shows, and how.
_VERSION = 2
# Characters of a name on a panel.
_LONGEST = 20
_MAPS = ('none', 'npy', 'png')


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string('model', None, 'The network, as a SPEC. ' + spec.usage())
  flags.DEFINE_string('images', None, 'A picture, or a folder of them.')
  flags.DEFINE_string(
    'output_dir',
    None,
    'Where panels-<i>.png and '
    f'{drawn_panels.SETTINGS} are written, and maps/ if '
    'asked for.',
  )
  flags.DEFINE_string(
    'maps',
    None,
    'Folder of human maps (grey pictures, '
    "npy, npz), each with its image's path below --images "
    'and name; some may be missing.',
  )
  flags.DEFINE_string(
    'image_suffix',
    '',
    "End of the images' names, before "
    "the extension, that the maps' names have not.",
  )
  flags.DEFINE_string('map_suffix', '', "The same of the maps' names.")
  map_framing.define_flag()
  flags.adopt_module_key_flags(map_framing)
  flags.DEFINE_string(
    'labels',
    None,
    'CSV with the columns image (its path '
    'below the folder) and label, a number from 0 of the '
    'classes that are scored. Left out, the predicted class.',
  )
  flags.DEFINE_multi_enum(
    'explainer',
    ['gradient'],
    [*explainers.EXPLAINERS],
    'What is drawn; may be given several times.',
  )
  flags.DEFINE_enum(
    'save_maps',
    'none',
    _MAPS,
    'Whether maps are also written '
    'on their own: as float32 arrays, or as pictures of 16 '
    'bits from least to most important.',
  )
  flags.DEFINE_integer(
    'rows', 8, 'Images on a panel, and in a batch.', lower_bound=1
  )
  flags.mark_flags_as_required(['model', 'images', 'output_dir'])


@dataclasses.dataclass(frozen=True)
class Options:
  """What is drawn; see the flags of the same names."""

  model: str
  images: str
  output_dir: str
  maps: str | None = None
  framing: str = 'same'
  labels: str | None = None
  explainer: tuple[str, ...] = ('gradient',)
  save_maps: str = 'none'
  rows: int = 8
  image_suffix: str = ''
  map_suffix: str = ''


class Page(NamedTuple):
  """What one panel shows, of B images.

  Attributes:
    names: of the images.
    images: float32 (B, h, w, 3) in [0, 1].
    captions: one for each.
    maps: titles to maps (B, h, w).
  """

  names: list[str]
  images: np.ndarray
  captions: list[str]
  maps: dict[str, np.ndarray]


def _short(name: str) -> str:
  """Returns an image's name, as long as there is room for beside it."""
  stem = map_index.image_id(name)
  return (
    stem
    if len(stem) <= _LONGEST
    else (f'{stem[: _LONGEST // 2 - 1]}…{stem[-_LONGEST // 2 :]}')
  )


def _page(
  adapter: base.Adapter, images: _Images, names: list[str], options: Options
) -> Page:
  """Explains a batch of images."""
  size = adapter.input_size
  pixels = np.stack([images.pixels(n, size) for n in names])
  inputs = adapter.preprocess(pixels)
  predicted = np.argmax(adapter.logits(inputs), axis=-1)
  captions, labels = [], []
  for name, guess in zip(names, predicted):
    label = images.label(name, adapter.scored_classes)
    labels.append(guess if label is None else label)
    captions.append(
      f'{_short(name)}\n'
      + (
        f'predicted: {guess}'
        if label is None
        else f'class {label}, predicted: {guess}'
      )
    )
  one_hot = np.eye(adapter.scored_classes, dtype=np.float32)[labels]
  maps = {}
  if options.maps:
    maps['human map'] = np.stack([images.human_map(n, size) for n in names])
  for name in options.explainer:
    explainer = explainers.get(name, adapter.gradients)
    maps[_title(name)] = explainers.explain(explainer, inputs, one_hot)
  return Page(names, pixels / 255.0, captions, maps)


def _encoded(values: np.ndarray, kind: str) -> bytes:
  """Returns a map as the contents of a file."""
  if kind == 'png':
    return image_codec.encode_map(values - values.min())
  buffer = io.BytesIO()
  np.save(buffer, values)
  return buffer.getvalue()


def _write_maps(page: Page, options: Options) -> list[str]:
  """Writes the network's maps on their own; returns their names."""
  written = []
  for name in options.explainer:
    for image, values in zip(page.names, page.maps[_title(name)]):
      written.append(
        f'maps/{name}/{os.path.splitext(image)[0]}.{options.save_maps}'
      )
      path = os.path.join(options.output_dir, written[-1])
      tf.io.gfile.makedirs(os.path.dirname(path))
      try:
        encoded = _encoded(values, options.save_maps)
      except ValueError as e:
        raise ValueError(
          f'{image}: {name} is {e}, which is no picture: write --save_maps=npy.'
        ) from None
      files.write(path, encoded)
  return written


def _title(explainer: str) -> str:
  return explainer.replace('_', ' ')


def _settings(
  options: Options, adapter: base.Adapter, names: list[str]
) -> dict[str, Any]:
  """What is written of a command."""
  digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()
  return {
    **dataclasses.asdict(options),
    'explainer': [*options.explainer],
    'preprocessing': adapter.preprocessing,
    'images_found': len(names),
    'names_sha256': digest,
    'names': names,
  }


def _command(settings: dict[str, Any]) -> dict[str, Any]:
  """What makes it another command; contents of files are in identities."""
  # Files written before there were suffixes and framings have none.
  found = {
    name: settings.get(name, '')
    for name in (
      'explainer',
      'save_maps',
      'rows',
      'image_suffix',
      'map_suffix',
      'images_found',
      'names_sha256',
    )
  }
  found['framing'] = settings.get('framing', 'same')
  try:
    kind, target, options = spec.parse(settings['model'])
  except (AttributeError, KeyError, ValueError):
    return {**found, 'model': settings.get('model')}
  options.pop('name', None)
  return {**found, 'model': (kind, target, sorted(options.items()))}


def explain(options: Options) -> Iterator[str]:
  """Draws the panels that are not there yet, or show something else.

  Args:
    options: what is drawn.

  Yields:
    The path of each panel, which then exists.

  Raises:
    ValueError: an option, an image, a map or a label cannot be used; or what
      the network's adapter raises.
  """
  images = _Images(options)
  adapter = spec.build(options.model)
  folder = drawn_panels.Folder(
    options.output_dir, _settings(options, adapter, images.names), _command
  )
  digests = identity.Digests()
  network = identity.network(adapter)
  for i in tqdm.trange(
    0, len(images.names), options.rows, disable=None, unit='panel'
  ):
    names = images.names[i : i + options.rows]
    shown = {
      'network': network,
      'protocol': f'panels {_VERSION}',
      'data': images.contents(names, adapter.scored_classes, digests),
      'versions': identity.versions(options.model),
    }
    panel = f'panels-{i // options.rows:04d}.png'
    path = os.path.join(options.output_dir, panel)
    if not folder.is_current(panel, shown):
      page = _page(adapter, images, names, options)
      written = [panel]
      if options.save_maps != 'none':
        written += _write_maps(page, options)
      panels.write_png(
        path, panels.render(page.images, page.maps, page.captions)
      )
      folder.add(panel, shown, written)
    yield path
  if folder.used:
    tqdm.tqdm.write(drawn_panels.origin(folder.used))


def main(_):
  """Draws what the flags describe."""
  values = {f.name: FLAGS[f.name].value for f in dataclasses.fields(Options)}
  for name in ('images', 'output_dir', 'maps', 'labels'):
    values[name] = values[name] and resources.working_path(values[name])
  options = Options(**{**values, 'explainer': tuple(values['explainer'])})
  unused = (
    ''
    if options.maps
    else cli.without_effect(
      [('without --maps', ('image_suffix', 'map_suffix', 'framing'))]
    )
  )
  if unused:
    raise ValueError(unused)
  paths = list(explain(options))
  more = f' ... {paths[-1]}' if paths[1:] else ''
  print(f'Written: {paths[0]}{more}')


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
