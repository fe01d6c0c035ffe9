# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Seeded damage to records with human maps, for `stress.mutated_records`.

The same format, seed and number give the same mutation, in any process.
"""

from collections.abc import Callable, Sequence
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stress.mutations import encoded_images

# Number of classes of the network; labels are 0..CLASSES-1.
CLASSES = 4
# Number of valid records of each format, which are mutated in turn.
ORIGINALS = 4

_SIDES = {'clickme_2018': 256, 'clickme_per_category': 224}
FORMATS = ('clickme', 'canonical', *_SIDES)

Fields = dict[str, bytes | int]


class Mutation(NamedTuple):
  """A damaged record, or a damaged file.

  Attributes:
    kind: name of the mutation.
    data: the serialized record, or all bytes of a file.
    damaged: position of the damaged record in a file; None for a single record.
  """

  kind: str
  data: bytes
  damaged: int | None = None


def serialize(fields: dict[str, object]) -> bytes:
  """Serializes a `tf.train.Example`.

  Args:
    fields: field names to bytes, ints, floats or lists of them.
  """
  example = tf.train.Example()
  for name, values in fields.items():
    feature = example.features.feature[name]
    for value in values if isinstance(values, list) else [values]:
      if isinstance(value, bytes):
        feature.bytes_list.value.append(value)
      elif isinstance(value, int):
        feature.int64_list.value.append(value)
      else:
        feature.float_list.value.append(value)
  return example.SerializeToString(deterministic=True)


def valid(record_format: str, seed: int) -> Fields:
  """Returns the fields of a valid record by name.

  Args:
    record_format: one of `FORMATS`.
    seed: seed of the pixels.
  """
  rng = np.random.default_rng([7, seed])
  label = int(rng.integers(0, CLASSES))
  if record_format in _SIDES:
    size = [_SIDES[record_format]] * 2
    return {
      'image': encoded_images.smooth(rng, size, 3).astype('<f4').tobytes(),
      'heatmap': encoded_images.smooth(rng, size, 1).astype('<f4').tobytes(),
      'label': label,
    }
  image = encoded_images.encode(
    encoded_images.smooth(rng, (40, 48), 3), 'JPEG', quality=95
  )
  heatmap = encoded_images.smooth(rng, (40, 48), 1)
  if record_format == 'clickme':
    return {
      'image': image,
      'label': label,
      'heatmap': encoded_images.encode(heatmap, 'JPEG', quality=95),
    }
  return {
    'image/encoded': image,
    'image/class/label': label,
    'image/heatmap/encoded': encoded_images.encode(heatmap, 'PNG'),
    'image/heatmap/height': 40,
    'image/heatmap/width': 48,
  }


def _pictures(fields: Fields) -> list[str]:
  return [k for k, v in fields.items() if isinstance(v, bytes)]


def _label_name(fields: Fields) -> str:
  return next(k for k in fields if k.endswith('label'))


# ---- Mutations of the serialized record ----


def _flip_record(rng, fields):
  data = serialize(fields)
  return encoded_images.flip(rng, data, range(len(data)))


def _flip_structure(rng, fields):
  """Changes bytes outside the images: keys, lengths, types, the label."""
  data = serialize(fields)
  inside = np.zeros(len(data), bool)
  for name in _pictures(fields):
    start = data.index(fields[name])
    inside[start : start + len(fields[name])] = True
  return encoded_images.flip(rng, data, np.flatnonzero(~inside))


def _drop_bytes(rng, fields):
  data = serialize(fields)
  place = rng.integers(0, len(data))
  return data[:place] + data[place + rng.integers(1, 90) :]


def _insert_bytes(rng, fields):
  data = serialize(fields)
  place = rng.integers(0, len(data))
  return data[:place] + rng.bytes(rng.integers(1, 90)) + data[place:]


def _any_field(rng, fields) -> str:
  return list(fields)[rng.integers(0, len(fields))]


def _remove_key(rng, fields):
  name = _any_field(rng, fields)
  return serialize({k: v for k, v in fields.items() if k != name})


def _rename_key(rng, fields):
  name = _any_field(rng, fields)
  return serialize({k + '_' * (k == name): v for k, v in fields.items()})


def _duplicate_key(rng, fields):
  name = _any_field(rng, fields)
  other = fields[name]
  other = other[::-1] if isinstance(other, bytes) else (other + 1) % CLASSES
  parts = [serialize(fields), serialize({name: other})]
  return b''.join(parts if rng.random() < 0.5 else parts[::-1])


def _other_type(rng, fields):
  name = _any_field(rng, fields)
  values = [1.5, b'1' if isinstance(fields[name], int) else 1]
  return serialize({**fields, name: values[rng.integers(0, 2)]})


def _other_count(rng, fields):
  name = _any_field(rng, fields)
  count = [0, 2, 3][rng.integers(0, 3)]
  return serialize({**fields, name: [fields[name]] * count})


def _label_outside(rng, fields):
  values = (
    -1,
    -2,
    CLASSES,
    CLASSES + 1,
    1000,
    2**31 - 1,
    2**31,
    2**32,
    2**32 + 1,
    2**63 - 1,
    -(2**31) - 1,
    -(2**63),
  )
  return serialize(
    {**fields, _label_name(fields): values[rng.integers(0, len(values))]}
  )


def _swap_pictures(rng, fields):
  del rng
  first, second = _pictures(fields)
  return serialize({**fields, first: fields[second], second: fields[first]})


_ANY: dict[str, Callable[[np.random.Generator, Fields], bytes]] = {
  'none': lambda rng, fields: serialize(fields),
  'record: bytes flipped': _flip_record,
  'record: keys, lengths, label flipped': _flip_structure,
  'record: tail cut': lambda rng, f: encoded_images.cut(rng, serialize(f)),
  'record: bytes dropped': _drop_bytes,
  'record: bytes put in': _insert_bytes,
  'record: noise': lambda rng, f: rng.bytes(rng.integers(1, 300)),
  'record: empty': lambda rng, f: b'',
  'key: removed': _remove_key,
  'key: renamed': _rename_key,
  'key: twice': _duplicate_key,
  'key: other type': _other_type,
  'key: other number of values': _other_count,
  'label: outside': _label_outside,
  'pictures: swapped': _swap_pictures,
}

# ---- Mutations of an encoded image ----


def _picture(change: Callable[[np.random.Generator, bytes], bytes]):
  """Returns a mutation of one of the encoded images of a record."""

  def mutate(rng, fields):
    names = _pictures(fields)
    name = names[rng.integers(0, len(names))]
    return serialize({**fields, name: change(rng, fields[name])})

  return mutate


# Each read of it takes a second, so this is its number per format.
_BOMBS = 2
_BOMB = 'picture: 144 million pixels'


def _map_size(rng, fields):
  name = ['image/heatmap/height', 'image/heatmap/width'][rng.integers(0, 2)]
  return serialize({**fields, name: int(rng.integers(-2, 60))})


# ---- Mutations of raw pixels ----


def _floats(change):
  """Returns a mutation of one of the arrays of a record."""
  return _picture(
    lambda rng, data: change(rng, np.frombuffer(data, '<f4').copy()).tobytes()
  )


def _not_finite(rng, pixels):
  values = (np.nan, np.inf, -np.inf, 3e38)
  pixels[rng.integers(0, len(pixels))] = values[rng.integers(0, len(values))]
  return pixels


def _other_white(rng, pixels):
  factor, offset = ((1 / 255, 0), (255, 0), (1, -128), (1 / 127.5, -1))[
    rng.integers(0, 4)
  ]
  return np.float32(pixels * factor + offset)


def _other_length(rng, data):
  change = int(
    [-8, -4, -1, 1, 4, 8, -len(data) // 2, len(data)][rng.integers(0, 8)]
  )
  return (data * 3)[: len(data) + change]


_RAW = {
  'pixels: bytes flipped': _picture(
    lambda rng, d: encoded_images.flip(rng, d, range(len(d)))
  ),
  'pixels: other length': _picture(_other_length),
  'pixels: empty': _picture(lambda rng, d: b''),
  'pixels: a JPEG': _picture(encoded_images.CHANGES['picture: colour JPEG']),
  'pixels: not finite': _floats(_not_finite),
  'pixels: other white': _floats(_other_white),
  'pixels: float64': _floats(lambda rng, p: p.astype('<f8')),
  'pixels: uint8': _floats(lambda rng, p: p.astype(np.uint8)),
  'pixels: big-endian': _floats(lambda rng, p: p.astype('>f4')),
  'pixels: all equal': _floats(lambda rng, p: 0 * p + 7),
}

# ---- Mutations of the file ----


def frame(records: Sequence[bytes]) -> bytes:
  """Returns the content of a TFRecord file of serialized records."""
  with tempfile.NamedTemporaryFile() as file:
    with tf.io.TFRecordWriter(file.name) as writer:
      for data in records:
        writer.write(data)
    return file.read()


_FILE = (
  'file: length flipped',
  'file: data flipped',
  'file: checksum flipped',
  'file: tail cut',
)


def _damage_file(rng, kind, records) -> Mutation:
  """Damages one record of a file, or truncates the file inside it."""
  damaged = int(rng.integers(0, len(records)))
  ends = np.cumsum([len(r) + 16 for r in records])
  end = int(ends[damaged])
  start = end - len(records[damaged]) - 16
  data = frame(records)
  if kind == 'file: tail cut':
    # A cut between two records cannot be detected from the file.
    return Mutation(kind, data[: rng.integers(start + 1, end)], damaged)
  places = {
    'file: length flipped': range(start, start + 12),
    'file: data flipped': range(start + 12, end - 4),
    'file: checksum flipped': range(end - 4, end),
  }[kind]
  place = places[rng.integers(0, len(places))]
  changed = bytearray(data)
  changed[place] ^= int(rng.integers(1, 256))
  return Mutation(kind, bytes(changed), damaged)


def _kinds(record_format: str):
  kinds = dict(_ANY)
  if record_format in _SIDES:
    return {**kinds, **_RAW}
  kinds.update(
    {k: _picture(change) for k, change in encoded_images.CHANGES.items()}
  )
  if record_format == 'canonical':
    kinds['map: other size than said'] = _map_size
  return kinds


def draw(record_format: str, seed: int, number: int) -> Mutation:
  """Makes one mutation of a format.

  Args:
    record_format: one of `FORMATS`.
    seed: seed of all mutations.
    number: number of the mutation. Kinds take turns.
  """
  rng = np.random.default_rng([seed, FORMATS.index(record_format), number])
  kinds = _kinds(record_format)
  rounds, place = divmod(number, len(kinds) + 1)
  # Files in every second round only, because they take longer than records.
  last = _FILE[rounds // 2 % 4] if rounds % 2 == 0 else 'record: bytes flipped'
  kind = [*kinds, last][place]
  fields = valid(record_format, rounds % ORIGINALS)
  if kind in _FILE:
    records = [serialize(valid(record_format, i)) for i in range(3)]
    return _damage_file(rng, kind, records)
  if kind == 'picture: noise' and rounds < _BOMBS:
    return Mutation(_BOMB, _picture(encoded_images.bomb)(rng, fields))
  return Mutation(kind, kinds[kind](rng, fields))
