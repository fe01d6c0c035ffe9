# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Data cards: where the data of a report come from, and under which licence.

Origins are read from the manifests next to records. Where nothing records an
origin or a licence, the card says so. docs/data_licences.md has the sources of
the licences.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os

import tensorflow as tf

from official_ext.harmonization import files as files_lib
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.data.records import clickme_release
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import release_layout
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores

NOT_RECORDED = 'not recorded'
_RELEASE = (
  "maps: not stated by their source; images: ImageNet's terms, "
  'non-commercial research and education only'
)
_DIGITS = (
  "digits: not stated by scikit-learn, whose code is BSD-3-Clause; see UCI's "
  'terms; backgrounds and decoys: Apache License 2.0'
)
# What the manifest of digits records.
_DIGITS_FACTS = {'train_images', 'ood_images', 'decoy_strength', 'seed'}
# Contents of larger data are not read to recognize the release.
_MOST_BYTES = 16 << 30


@dataclasses.dataclass(frozen=True)
class Origin:
  """What is known of records besides their contents.

  Attributes:
    origin: where they come from, in words.
    licence: what their source says, in words.
    class_names: names of the scored classes by number, where they are recorded.
    counts: numbers of what the data contain, by name, besides those in results.
  """

  origin: str = NOT_RECORDED
  licence: str = NOT_RECORDED
  class_names: Mapping[int, str] = dataclasses.field(default_factory=dict)
  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


def of_records(
  paths: Sequence[str], digest: Callable[[str], str], label_offset: int = 0
) -> Origin:
  """Finds the origin of records.

  Args:
    paths: of the record files.
    digest: takes a local path and returns the SHA-256 of the file.
    label_offset: added to recorded labels to give the scored classes.

  Returns:
    The origin. Data made by `data.build_clickme_records` and
    `data.merge_imagenet` have the licence of what they were made of, which no
    file records.
  """
  folders = dict.fromkeys(os.path.dirname(path) for path in paths)
  contents = {folder: _manifest(folder) for folder in folders}
  sources = list(
    dict.fromkeys(
      str(found['source']) for found in contents.values() if found is not None
    )
  )
  if sources and all(s.startswith(release_layout.BASE_URL) for s in sources):
    return _release(paths, sources, digest)
  if all(map(_is_digits, folders)) and folders:
    return Origin(
      "digits of make train: scikit-learn's copy of UCI's optical recognition "
      'of handwritten digits, with backgrounds and decoys drawn from a seed '
      '(data.make_digits_clickme)',
      _DIGITS,
    )
  if not sources:
    return Origin(f'{NOT_RECORDED}: no {manifest.FILE} is next to the files')
  names: dict[int, str] = {}
  for found in contents.values():
    names.update(_class_names(found or {}, label_offset))
  missing = sum(found is None for found in contents.values())
  return Origin(
    f'records made by this project from {"; ".join(sources)}'
    + (f'; {missing} folders have no {manifest.FILE}' if missing else ''),
    f'{NOT_RECORDED}; it is that of the images and maps',
    names,
  )


def of_stimuli(
  folder: str,
  stimuli: Sequence[stimulus_files.Stimulus],
  trials: Sequence[human_trials.Trial],
) -> Origin:
  """Describes stimuli and the responses of people.

  Args:
    folder: of the stimuli.
    stimuli: in the folder.
    trials: with a response; empty without people, or without single trials.

  Returns:
    The origin. Stimuli have the licence of the images that they were made of,
    which no file records.
  """
  is_ours = tf.io.gfile.exists(os.path.join(folder, record_files.STIMULI))
  counts = {
    'stimuli': len(stimuli),
    'images of the stimuli': len({s.image for s in stimuli}),
    'participants': len({t.participant for t in trials}),
    'trials of people with a response': len(trials),
  }
  return Origin(
    'stimuli made by this project (data.make_psychophysics_stimuli)'
    if is_ours
    else f'{NOT_RECORDED}: no {record_files.STIMULI} is in the folder',
    f'{NOT_RECORDED}; it is that of the images and of the responses',
    counts={name: n for name, n in counts.items() if n},
  )


def _release(paths, sources, digest) -> Origin:
  """Describes records whose manifests name the release's address."""
  size = sum(tf.io.gfile.stat(path).length for path in paths)
  is_read = size <= _MOST_BYTES
  if not clickme_release.is_release(paths, digest if is_read else None):
    return Origin(
      'the manifest names the ClickMe release '
      f'({", ".join(sources)}), but the files differ from it'
    )
  how = 'sizes and SHA-256' if is_read else 'sizes'
  return Origin(
    'ClickMe release (Linsley et al. 2019; Fel et al. 2022), from '
    f'{", ".join(sources)}; recognized by {how}',
    _RELEASE,
  )


def _manifest(folder: str) -> dict | None:
  try:
    return manifest.read(folder)
  except (FileNotFoundError, ValueError):
    return None


def _is_digits(folder: str) -> bool:
  """Whether a folder is a split of what `data.make_digits_clickme` wrote."""
  path = os.path.join(os.path.dirname(folder), manifest.FILE)
  if not tf.io.gfile.exists(path):
    return False
  try:
    found = files_lib.read_json(path)
  except ValueError:
    return False
  return isinstance(found, dict) and _DIGITS_FACTS <= found.keys()


def _class_names(content: Mapping, label_offset: int) -> dict[int, str]:
  """Returns the names that a builder recorded, by scored class."""
  names = content.get('class_names')
  settings = content.get('settings')
  if not isinstance(names, list) or not isinstance(settings, dict):
    return {}
  recorded = settings.get('label_offset', 0)
  return {
    i + recorded + label_offset: str(name) for i, name in enumerate(names)
  }


def card(
  origin: Origin | None,
  models: Sequence[results.ModelResults],
  protocol: str,
  output_dir: str,
) -> run_results.DataCard:
  """Adds numbers and digests from the results to an origin.

  Args:
    origin: of the data; None if unknown.
    models: with results.
    protocol: whose data it is.
    output_dir: that the paths of tables start from.

  Returns:
    The card. Random twins may use a sample and are not asked.
  """
  found = [
    model.results[protocol]
    for model in models
    if protocol in model.results and not model.twin_of and not model.runs
  ]
  origin = origin or Origin()
  identity = next((r.identity for r in found if r.identity), {})
  images, maps, classes = (
    _counts(os.path.join(output_dir, found[0].table))
    if found
    else (None, None, None)
  )
  return run_results.DataCard(
    origin=origin.origin,
    licence=origin.licence,
    sha256=_digests(identity.get('data')),
    images=images,
    maps=maps,
    classes=classes,
    class_names=origin.class_names,
    counts=origin.counts,
  )


def _digests(data) -> dict[str, str]:
  """Returns the digests in the part `data` of an identity by their name."""
  if not isinstance(data, Mapping):
    return {}
  if 'sha256' in data:
    data = {'files': data}
  return {
    f'{name.replace("_", " ")} ({part["files"]})': part['sha256']
    for name, part in data.items()
    if isinstance(part, Mapping) and 'sha256' in part
  }


def _counts(path: str) -> tuple[int | None, int | None, int | None]:
  """Counts images, human maps that are not constant, and classes.

  A table of trials has neither maps nor numbered classes.
  """
  rows = scores.read_rows(path) if tf.io.gfile.exists(path) else []
  if not rows or 'label' not in rows[0]:
    return None, None, None
  maps = None
  if 'influence' in rows[0]:
    maps = sum(row.get('map_extent') != 'nan' for row in rows)
  return len(rows), maps, len({row['label'] for row in rows})
