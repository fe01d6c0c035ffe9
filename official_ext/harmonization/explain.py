# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Draws where a network looks: saliency panels of one image or a folder.

  python -m official_ext.harmonization.explain \
      --model='keras_app:ResNet50V2' --images=photos --maps=human_maps \
      --output_dir=runs/panels

Each row of a panel shows an image, its human map, if --maps has one, and the
network's map for the predicted class, or for the class in --labels. Images are
shown as the network sees them: whole, at its input size. A model is
KIND:TARGET?OPTION=VALUE; docs/models.md lists the kinds.

The time per image and explainer is printed and stored in settings.json. With an
explainer that takes many passes, first.png shows the first image while the
others are computed, and the remaining time is estimated from it.

Run it again to resume: a panel is drawn again only if the network, an image, a
map or a class has changed, and the earlier panel is then kept in earlier/.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import io
import os
import time
from typing import Any, NamedTuple

from etils import epy

from official_ext.harmonization import choices
from official_ext.harmonization import cli
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.data.maps import map_options

with epy.lazy_imports():
  import numpy as np
  import tensorflow as tf
  import tqdm

  from official_ext.harmonization import files
  from official_ext.harmonization.benchmark import baselines
  from official_ext.harmonization.benchmark import drawn_panels
  from official_ext.harmonization.benchmark import explainers
  from official_ext.harmonization.benchmark import identity
  from official_ext.harmonization.benchmark import image_folder
  from official_ext.harmonization.benchmark import progress
  from official_ext.harmonization.data.maps import image_codec
  from official_ext.harmonization.data.maps import map_index
  from official_ext.harmonization.evaluation import panels

# Version of the panels' content and layout; part of their identity.
_VERSION = 2
# The panel of the first image, until its batch is drawn.
_FIRST = 'first.png'
# Characters of an image's name on a panel.
_LONGEST = 20
_MAP_FLAGS = ('image_suffix', 'map_suffix', 'framing')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(map_options.Suffixes, map_options.Framing):
  """The flags of the command."""

  model: str = cli.flag(
    '', 'The network, as a SPEC. ' + spec.usage(), required=True
  )
  images: str = cli.flag(
    '', 'An image, or a folder of images.', path=True, required=True
  )
  output_dir: str = cli.flag(
    '',
    'Folder for panels-<i>.png and settings.json, and for maps/ with '
    '--save_maps.',
    path=True,
    required=True,
  )
  maps: str | None = cli.flag(
    None,
    'Folder of human maps: grey images, npy or npz files. A map has the path '
    'of its image below --images; some may be missing.',
    path=True,
  )
  labels: str | None = cli.flag(
    None,
    'CSV file with the columns image (its path below the folder) and label, '
    'the index of a class that the network scores. By default the predicted '
    'class is explained.',
    path=True,
  )
  explainer: tuple[str, ...] = cli.flag(
    ('gradient',),
    "How the network's map is computed. Repeat the flag to draw several. One "
    f'of {", ".join(option_values.EXPLAINERS)}, or the import path of a '
    'function(network) of your own that returns an explainer.',
    repeated=True,
  )
  explainer_samples: int | None = cli.flag(
    None,
    'Number of samples or steps of the explainers that have one. By default, '
    'each has its own.',
    at_least=1,
  )
  save_maps: str = cli.flag(
    'none',
    'Also write the maps to files: as float32 arrays, or as 16-bit images '
    'whose range is from the least to the most important pixel.',
    choices=('none', 'npy', 'png'),
  )
  rows: int = cli.flag(8, 'Images on a panel, and in a batch.', at_least=1)


class Panel(NamedTuple):
  """The contents of one panel of B images.

  Attributes:
    names: of the images.
    images: float32 (B, h, w, 3) in [0, 1].
    captions: one per image.
    maps: maps (B, h, w) by title.
    seconds: per image, by explainer.
  """

  names: list[str]
  images: 'np.ndarray'
  captions: list[str]
  maps: dict[str, 'np.ndarray']
  seconds: dict[str, float]


def _short(name: str) -> str:
  """Returns an image's name, shortened to fit beside the image."""
  stem = map_index.image_id(name)
  return (
    stem
    if len(stem) <= _LONGEST
    else (f'{stem[: _LONGEST // 2 - 1]}…{stem[-_LONGEST // 2 :]}')
  )


def _panel(
  adapter,
  images: 'image_folder.ImageFolder',
  names: list[str],
  options: Options,
  made: 'dict[str, explainers.Explainer]',
) -> Panel:
  """Computes the panel of a batch of images."""
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
  maps, seconds = {}, {}
  if options.maps:
    maps['human map'] = np.stack([images.human_map(n, size) for n in names])
  for name, explainer in made.items():
    start = time.perf_counter()
    maps[_title(name)] = explainers.explain(explainer, inputs, one_hot)
    seconds[name] = (time.perf_counter() - start) / len(names)
  return Panel(names, pixels / 255.0, captions, maps, seconds)


def _explainers(
  adapter, images: 'image_folder.ImageFolder', options: Options
) -> 'dict[str, explainers.Explainer]':
  """Makes the explainers, by name."""
  return {
    name: explainers.get(
      name,
      adapter,
      samples=options.explainer_samples
      if explainers.samples_option(name)
      else None,
      **baselines.of_folder(name, images, images.names, adapter),
    )
    for name in options.explainer
  }


def _check_explainers(options: Options):
  """Checks names and the number of samples before the network is opened."""
  sampled = [explainers.samples_option(name) for name in options.explainer]
  if options.explainer_samples is not None and not any(sampled):
    raise ValueError(
      f'--explainer_samples={options.explainer_samples} has no effect on '
      f'{", ".join(options.explainer)}; expected an explainer with samples or '
      'steps. Omit it.'
    )


def _cost(seconds: dict[str, float], images: int) -> str:
  """Describes the time per image, and that of the images that remain."""
  each = ', '.join(f'{name} {value:.2g}' for name, value in seconds.items())
  sentence = f'Seconds per image: {each}.'
  if images:
    total = progress.in_words(images * sum(seconds.values()))
    count = choices.plural(images, 'more image')
    sentence += f' {count}: at most about {total}.'
  return sentence


def _encode(values: 'np.ndarray', kind: str) -> bytes:
  """Encodes a map (h, w) as an npy or png file."""
  if kind == 'png':
    return image_codec.encode_map(values - values.min())
  buffer = io.BytesIO()
  np.save(buffer, values)
  return buffer.getvalue()


def write_maps(panel: Panel, options: Options) -> list[str]:
  """Writes each of a panel's maps to a file.

  Args:
    panel: with the maps of every explainer in the options.
    options: `save_maps` is 'npy' or 'png'.

  Returns:
    The paths of the files below `output_dir`.

  Raises:
    ValueError: a map is constant or not finite, and cannot be a png file.
  """
  written = []
  for name in options.explainer:
    for image, values in zip(panel.names, panel.maps[_title(name)]):
      written.append(
        f'maps/{name}/{os.path.splitext(image)[0]}.{options.save_maps}'
      )
      path = os.path.join(options.output_dir, written[-1])
      tf.io.gfile.makedirs(os.path.dirname(path))
      try:
        encoded = _encode(values, options.save_maps)
      except ValueError as e:
        raise ValueError(
          f'{image}: {name} is {e}; expected a map that a png file can store. '
          'Use --save_maps=npy.'
        ) from None
      files.write(path, encoded)
  return written


def _title(explainer: str) -> str:
  return explainer.replace('_', ' ')


def _settings(options: Options, adapter, names: list[str]) -> dict[str, Any]:
  """Returns the settings that are stored in the folder."""
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
  """Returns the settings that must be equal for all panels of a folder.

  The contents of files may change; they are in the identities of the panels.

  Args:
    settings: as from `_settings`, perhaps of an earlier version.
  """
  # Earlier versions had neither suffixes nor framings.
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
  found['explainer_samples'] = settings.get('explainer_samples')
  try:
    kind, target, options = spec.parse(settings['model'])
  except (AttributeError, KeyError, ValueError):
    return {**found, 'model': settings.get('model')}
  options.pop('name', None)
  return {**found, 'model': (kind, target, sorted(options.items()))}


def _check_names(names: list[str], options: Options):
  """Refuses two images whose maps would be written to the same file."""
  stems = {os.path.splitext(n)[0] for n in names}
  if options.save_maps != 'none' and len(stems) < len(names):
    raise ValueError(
      f'--images={options.images}: the names of two images differ only in '
      'their extensions, so their maps would have the same name. Rename one.'
    )


def explain(options: Options) -> Iterator[str]:
  """Draws the panels that do not exist yet or are outdated.

    options = explain.Options(
        model='keras_app:VGG16', images='photos', output_dir='runs/panels')
    paths = list(explain.explain(options))

  Args:
    options: the flags.

  Yields:
    The path of each panel when it is up to date.

  Raises:
    ValueError: an option, an image, a map or a label is invalid, or the network
      cannot be explained.
  """
  folders = {'maps': options.maps or ''}
  if tf.io.gfile.isdir(options.images):
    folders['images'] = options.images
  files.refuse_output_in(options.output_dir, folders, below=True)
  images = image_folder.ImageFolder(
    options.images,
    options.maps,
    image_suffix=options.image_suffix,
    map_suffix=options.map_suffix,
    framing=options.framing,
    labels=options.labels,
  )
  _check_names(images.names, options)
  _check_explainers(options)
  adapter = spec.build(options.model)
  folder = drawn_panels.Folder(
    options.output_dir, _settings(options, adapter, images.names), _command
  )
  digests = identity.Digests()
  network = identity.network(adapter)
  made = _explainers(adapter, images, options)
  sources = [explainers.identity(name) for name in options.explainer]
  is_slow = bool({*options.explainer} - {*option_values.CHEAP_EXPLAINERS})
  drawn, seconds = 0, {}
  for i in tqdm.trange(
    0, len(images.names), options.rows, disable=None, unit='panel'
  ):
    names = images.names[i : i + options.rows]
    depends_on = {
      'network': network,
      'protocol': f'panels {_VERSION}',
      'data': images.contents(names, adapter.scored_classes, digests),
      'versions': identity.versions(options.model),
    }
    if any(map(explainers.needs_baselines, options.explainer)):
      depends_on['baselines'] = images.contents(
        baselines.drawn(images.names), adapter.scored_classes, digests
      )
    if any(sources):
      depends_on['explainers'] = sources
    file = f'panels-{i // options.rows:04d}.png'
    path = os.path.join(options.output_dir, file)
    if not folder.is_current(file, depends_on):
      if not drawn and is_slow and len(images.names) > i + 1:
        first = _panel(adapter, images, names[:1], options, made)
        _write(first, os.path.join(options.output_dir, _FIRST))
        tqdm.tqdm.write(
          f'{_FIRST} shows {names[0]}. '
          + _cost(first.seconds, len(images.names) - i)
        )
      panel = _panel(adapter, images, names, options, made)
      written = [file]
      if options.save_maps != 'none':
        written += write_maps(panel, options)
      _write(panel, path)
      folder.add(file, depends_on, written, seconds_per_image=panel.seconds)
      _remove_first(options.output_dir)
      drawn += 1
      seconds = panel.seconds
    yield path
  if drawn:
    tqdm.tqdm.write(_cost(seconds, 0))
  if folder.used:
    tqdm.tqdm.write(drawn_panels.origin(folder.used))


def _write(panel: Panel, path: str):
  """Draws a panel."""
  panels.write_png(
    path, panels.render(panel.images, panel.maps, panel.captions)
  )


def _remove_first(output_dir: str):
  """Removes the panel of the first image, which is on a panel by then."""
  path = os.path.join(output_dir, _FIRST)
  if tf.io.gfile.exists(path):
    tf.io.gfile.remove(path)


def main(options: Options):
  """Draws the panels and prints their paths."""
  if not options.maps:
    cli.refuse_without_effect([('without --maps', _MAP_FLAGS)])
  paths = list(explain(options))
  more = f' ... {paths[-1]}' if paths[1:] else ''
  print(f'Written: {paths[0]}{more}')


def run():
  """Runs the command."""
  cli.run(main, Options)


if __name__ == '__main__':
  run()
