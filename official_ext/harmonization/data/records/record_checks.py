# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks the content of records: single ones, files, and all files."""

import collections
from collections.abc import Iterator
import hashlib
import threading
from typing import NamedTuple

from google.protobuf import message
import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import registry

# Records that are inspected to recognize the largest possible value of pixels.
_INSPECTED = 20
# It is one of these in all known archives of raw pixels.
_MAX_VALUES = (1.0, 255.0)
_OVERSHOOT = 1.1
_RAW_SIDES = {
  4 * 256 * 256 * 3: 'clickme_2018',
  4 * 224 * 224 * 3: 'clickme_per_category',
}


def _field(data: bytes, *names: str) -> bytes | None:
  """Returns the bytes of the first of these fields that a record has."""
  try:
    feature = tf.train.Example.FromString(data).features.feature
  except message.DecodeError:
    return None
  for name in names:
    if name in feature and len(feature[name].bytes_list.value) == 1:
      return feature[name].bytes_list.value[0]
  return None


def recognize(data: bytes) -> str:
  """Recognizes the format of a record by its fields.

  Args:
    data: the serialized record.

  Returns:
    One of `registry.names()`; '' if the fields are those of no format.
  """
  if _field(data, 'image/encoded') is not None:
    return 'canonical'
  image = _field(data, 'image')
  return '' if image is None else _RAW_SIDES.get(len(image), 'clickme')


def recognize_file(path: str) -> tuple[str, float] | None:
  """Recognizes the format of a file by its first record.

  Args:
    path: of the file.

  Returns:
    One of `registry.names()`, which is 'clickme' if the fields are those of no
    format, and the value of white in raw pixels; None if the file is empty.
  """
  first = next(record_reader.read(path), None)
  if first is None:
    return None
  return Checker().format_of(path, first.data or b'')


def other_format(data: bytes | None, kind: str) -> str:
  """Returns a hint if a record seems to have another format; '' if not.

  Args:
    data: the serialized record, which has a problem when read as `kind`.
    kind: the format it was read as.
  """
  found = recognize(data) if data else ''
  if found in ('', kind):
    return ''
  return (
    f'it was read as {kind}, but has the fields of {found}: did you mean '
    f'--map_decoder={found}?'
  )


class Finding(NamedTuple):
  """A fact about a whole file, or about all files.

  Attributes:
    text: its description.
    is_bad: whether it is a problem, not a warning.
  """

  text: str
  is_bad: bool


class _Decoded(NamedTuple):
  problem: str
  label: int
  has_map: bool
  flat_map: bool
  flat_image: bool


class Checker:
  """Checks records of any format, one by one and all together."""

  def __init__(
    self,
    map_decoder: str | None = None,
    num_classes: int | None = None,
    label_offset: int | None = None,
    raw_image_max: float | None = None,
  ):
    """Initializes the checker.

    Args:
      map_decoder: name of the format; None to recognize it in each file.
      num_classes: of the network; None accepts every label.
      label_offset: added to the recorded label; None for the offset of the
        format in training, see `labels.OFFSETS`.
      raw_image_max: the value of white in raw pixels; None to recognize 1 or
        255 in each file.
    """
    self.map_decoder = map_decoder
    self.num_classes = num_classes
    self.label_offset = label_offset
    self.raw_image_max = raw_image_max
    self._lock = threading.Lock()
    self._decoders = {}
    self._images = {}  # Digest to file, record and label.
    self._copies = collections.Counter()
    self._copy = None
    self._labels = collections.Counter()
    self._formats = {}

  def of_file(self, path: str) -> '_FileChecker':
    """Returns a checker for the records of one file, in their order."""
    return _FileChecker(self, path)

  def decode(self, data: bytes, kind: str, max_value: float) -> _Decoded:
    """Decodes a record.

    Args:
      data: the serialized record.
      kind: its format.
      max_value: the value of white in raw pixels.
    """
    with self._lock:  # Traced once for all threads.
      if (kind, max_value) not in self._decoders:
        self._decoders[kind, max_value] = _decoder(kind, max_value)
    found = [value.numpy() for value in self._decoders[kind, max_value](data)]
    return _Decoded(
      found[0].decode(errors='replace'), int(found[1]), *map(bool, found[2:])
    )

  def format_of(self, path: str, data: bytes) -> tuple[str, float]:
    """Returns the format and the value of white, given the first record."""
    kind = self.map_decoder or recognize(data) or 'clickme'
    max_value = self.raw_image_max or 255.0
    description = kind
    if registry.is_raw(kind):
      if not self.raw_image_max:
        max_value = _max_value(path)
      description = f'{kind}, white at {max_value:g}'
    with self._lock:
      self._formats.setdefault(description, path)
    return kind, max_value

  def label_problem(self, label: int, kind: str) -> str:
    """Returns why a label is not a class, or ''."""
    if self.num_classes is None:
      return ''
    offset = self.label_offset
    if offset is None:
      offset = (
        labels.OFFSETS.get(self.num_classes, 0) if kind == 'clickme' else 0
      )
    first = labels.first_class(self.num_classes)
    if first <= label + offset < self.num_classes:
      return ''
    return (
      f'its label {label} plus label_offset {offset} is outside the '
      f'classes {first}..{self.num_classes - 1}'
      + ' (class 0 of 1001 is the background)'
      * (label + offset < first and first > 0)
    )

  def note(self, path: str, index: int, data: bytes, label: int):
    """Notes an image, to recognize its copies."""
    with self._lock:
      self._labels[label] += 1
      image = _field(data, 'image/encoded', 'image') or b''
      digest = hashlib.blake2b(image, digest_size=8).digest()
      first = self._images.setdefault(digest, (path, index, label))
      if first != (path, index, label):
        kind = 'same label' if first[2] == label else 'another label'
        # Report a copy with another label rather than one with the same.
        if self._copy is None or not self._copies['another label']:
          if self._copy is None or kind == 'another label':
            self._copy = first, (path, index, label)
        self._copies[kind] += 1

  def formats(self) -> list[str]:
    """Returns the formats that were found, with the value of white if raw."""
    return sorted(self._formats)

  def findings(self) -> Iterator[Finding]:
    """Yields the findings about all files together."""
    if len({said.partition(',')[0] for said in self._formats}) < len(
      self._formats
    ):
      yield Finding(
        'the records differ in the value of white: '
        + '; '.join(f'{path} is {said}' for said, path in self._formats.items())
        + '; expected one value. Move them to different folders',
        True,
      )
    kinds = {said.partition(',')[0] for said in self._formats}
    if self.raw_image_max and kinds and not any(map(registry.is_raw, kinds)):
      yield Finding(
        f'raw_image_max={self.raw_image_max:g} has no effect: the records '
        f'are {", ".join(sorted(kinds))}, whose images are encoded',
        False,
      )
    if len(self._labels) == 1 and sum(self._labels.values()) > 1:
      label, count = next(iter(self._labels.items()))
      yield Finding(
        f'all {count} records have the label {label}; expected several labels',
        False,
      )
    if self._copy:
      (path, index, label), (other, place, its_label) = self._copy
      differ = self._copies['another label']
      copies = sum(self._copies.values())
      yield Finding(
        f'{choices.plural(copies, "image")} '
        + (
          'is a copy of an earlier one'
          if copies == 1
          else 'are copies of earlier ones'
        )
        + (f', {differ} of them with another label' if differ else '')
        + f'. For example, record {place} of {other} (label {its_label}) is a '
        f'copy of record {index} of {path} (label {label})',
        False,
      )


class _FileChecker:
  """Checks the records of one file."""

  def __init__(self, checker: Checker, path: str):
    self._checker = checker
    self._path = path
    self._format = None
    self._counts = collections.Counter()

  def record(self, record: record_reader.Record) -> str:
    """Returns what is wrong with a record, or ''."""
    checker = self._checker
    if record.data is None:
      return record.problem
    if self._format is None:
      self._format = checker.format_of(self._path, record.data)
    found = checker.decode(record.data, *self._format)
    if found.problem:
      hint = other_format(record.data, self._format[0])
      return '; '.join(filter(None, (found.problem, hint)))
    wrong = checker.label_problem(found.label, self._format[0])
    if wrong:
      return wrong
    self._counts['records'] += 1
    self._counts['maps'] += found.has_map
    self._counts['flat maps'] += found.has_map and found.flat_map
    self._counts['flat images'] += found.flat_image
    checker.note(self._path, record.index, record.data, found.label)
    return ''

  def findings(self) -> Iterator[Finding]:
    """Yields the findings about all records of the file."""
    counts = self._counts
    for many, flat, what in (
      (
        'maps',
        'flat maps',
        'maps are constant, so their alignment is undefined',
      ),
      ('records', 'flat images', 'images are constant'),
    ):
      if counts[flat]:
        whole = counts[flat] == counts[many]
        yield Finding(
          f'{"all " * whole}{counts[flat]}'
          + f' of {counts[many]}' * (not whole)
          + f' {what}',
          whole,
        )


def _decoder(kind: str, max_value: float):
  """Returns a traced function that decodes a record to a `_Decoded`."""
  decoder = registry.get_decoder(kind, max_value)

  def is_flat(values):
    return tf.reduce_max(values) <= tf.reduce_min(values)

  @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
  def decode(serialized):
    found = decoder.decode(serialized)
    return (
      found['problem'],
      found['label'],
      found.get('has_map', tf.constant(True)),
      is_flat(found['heatmap']),
      is_flat(found['image']),
    )

  decode.get_concrete_function()
  return decode


def _max_value(path: str) -> float:
  """Recognizes the value of white in a file of raw pixels."""
  brightest = 0.0
  for record in record_reader.read(path):
    image = _field(record.data or b'', 'image') or b''
    if image and not len(image) % 4:
      values = np.frombuffer(image, '<f4')
      brightest = max(brightest, float(np.nan_to_num(values).max()))
    if record.index == _INSPECTED:
      break
  return min(
    (v for v in _MAX_VALUES if brightest <= v * _OVERSHOOT), default=255.0
  )
