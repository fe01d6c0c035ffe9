# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Parses the positions of clicks in the notations that programs write.

A CSV holds them as text: a list of points in the notation of Python, NumPy,
JSON or PostgreSQL. The text is never executed.
"""

import ast
from collections.abc import Sequence
import json
import math
import re
from typing import Any, NamedTuple

import numpy as np

_WRONG = 'the clicks are not a list of (x, y)'
# A number as NumPy prints its scalar types, such as np.int64(3).
_SCALAR = re.compile(
  r'\b(?:(?:np|numpy)\.)?(?:u?int|float)(?:8|16|32|64)?_?\(([^()]*)\)'
)
_WRAPPED = re.compile(r'\b(?:(?:np|numpy)\.)?(?:array|asarray|list|tuple)\(')
_DTYPE = re.compile(r',\s*dtype=[\w.\'"<>]+\s*(?=\))')
_NULL = re.compile(r'\b(?:null|nan|none)\b', re.IGNORECASE)
# Separators in a printed NumPy array, which has no commas.
_SPACES = re.compile(r'(?<=[\d.\]])\s+(?=[-\d\[])')
_NUMBER = r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?'
_PAIR = re.compile(rf'\(?\s*({_NUMBER})\s*[,; ]\s*({_NUMBER})\s*\)?')
# Values this many times larger or smaller than all positions can be times.
_APART = 4
_BRACES = str.maketrans('{}', '[]', '"\\')


class Points(NamedTuple):
  """The clicks of one participant on one image.

  Attributes:
    places: float64 (n, 2), x and y of each click in pixels.
    nulls: number of clicks that were recorded without a position (null).
  """

  places: np.ndarray
  nulls: int


def read(clicks: str | tuple[Sequence[float], Sequence[float]]) -> Points:
  """Parses recorded clicks.

  Args:
    clicks: the text of a list of points, or a pair of sequences of x and of y,
      which may be padded with NaN. In a text, a point is (x, y), [x, y],
      "(x,y)" or {"x": x, "y": y}. A third value is accepted as its time if it
      never decreases from one click to the next. The list may be written by
      Python, NumPy (np.int64(3), array([...]), printed arrays), JSON (with
      nulls) or PostgreSQL ({"(1,2)","(3,4)"}), or be {"x": [...], "y": [...]}.

  Returns:
    The points.

  Raises:
    ValueError: the notation is unknown or ambiguous, or a click lacks x or y.
  """
  try:
    if not isinstance(clicks, str):
      places = np.stack([np.asarray(c, np.float64) for c in clicks], -1)
      # NaN in both is padding, not a click without a position.
      found = Points(places[~np.isnan(places).all(-1)], 0)
    else:
      found = _points(*_parse(clicks))
  except (
    SyntaxError,
    TypeError,
    ValueError,
    MemoryError,
    OverflowError,
    RecursionError,
  ) as e:
    # The messages of Python's parsers would not help.
    raise ValueError(str(e) if isinstance(e, _Unclear) else _WRONG) from None
  if found.places.ndim != 2 or found.places.shape[-1] != 2:
    raise ValueError(_WRONG)
  if not np.isfinite(found.places).all():
    raise ValueError('a click has no finite position')
  return found


class _Unclear(ValueError):
  """The notation of the clicks is ambiguous or unknown."""


def _parse(text: str) -> tuple[Any, bool]:
  """Returns the value of a text, and whether it is JSON or PostgreSQL."""
  text = text.strip()
  if '...' in text:
    raise _Unclear('NumPy shortened the clicks when it printed them ("...")')
  # JSON would read an empty array of PostgreSQL as an object, and Python a full
  # one as a set, which loses the order and equal clicks.
  if text.startswith('{') and ':' not in text:
    return ast.literal_eval(_NULL.sub('None', text.translate(_BRACES))), True
  try:
    value = json.loads(text)
  except ValueError:
    pass
  else:
    # Programs that encode twice write JSON in JSON.
    return _parse(value) if isinstance(value, str) else (value, True)
  if '(' in text:
    text = _WRAPPED.sub('(', _DTYPE.sub('', _SCALAR.sub(r'\1', text)))
  if ',' not in text:
    text = _SPACES.sub(',', text)
  value = ast.literal_eval(_NULL.sub('None', text))
  if isinstance(value, bytes):
    value = value.decode()
  return _parse(value) if isinstance(value, str) else (value, False)


def _points(value: Any, data: bool) -> Points:
  """Returns the points of a value.

  Args:
    value: lists and dicts of numbers.
    data: whether a single point of three numbers is read as x, y and a time.
  """
  if isinstance(value, dict):
    columns = _by_name(value)
    if not all(isinstance(c, (list, tuple)) for c in columns):
      raise TypeError
    if len(columns[0]) != len(columns[1]):
      raise _Unclear(
        f'{len(columns[0])} values of x, but {len(columns[1])} of y'
      )
    value = [*zip(*columns)]
  if not isinstance(value, (list, tuple)):
    raise TypeError
  found = [_point(p) for p in value]
  times = [p[2] for p in found if p is not None and p[2:]]
  if times:
    _check_times(times, sum(p is not None for p in found), data)
    _check_columns(found)
  places, nulls = [], 0
  for point in found:
    x, y = (None, None) if point is None else map(_number, point[:2])
    if x is None and y is None:
      nulls += 1
    elif x is None or y is None:
      raise _Unclear('a click has no finite position')
    else:
      places.append((x, y))
  return Points(np.array(places, np.float64).reshape(-1, 2), nulls)


def _by_name(point: dict) -> tuple[Any, Any]:
  """Returns the values of x and y in a dictionary."""
  named = {str(key).lower(): value for key, value in point.items()}
  if not {'x', 'y'} <= {*named}:
    raise _Unclear(f'the clicks have the keys {[*point]}; expected x and y')
  return named['x'], named['y']


def _point(point: Any) -> Sequence[Any] | None:
  """Returns x, y and the time, if any, of a point; None if it is null."""
  if point is None:
    return None
  if isinstance(point, dict):
    return _by_name(point)
  if isinstance(point, str):
    match = _PAIR.fullmatch(point.strip())
    if match:
      return match.groups()
  elif isinstance(point, (list, tuple)) and len(point) in (2, 3):
    return point
  raise TypeError


def _number(value: Any) -> float | None:
  """Returns a coordinate; None if it is null or NaN."""
  if value is None:
    return None
  if isinstance(value, bool):
    raise TypeError
  number = float(value)
  return None if math.isnan(number) else number


def _check_columns(points: Sequence[Sequence[Any] | None]):
  """Refuses two rows of three that could be the x and y of three clicks."""
  if len(points) != 2 or any(p is None or len(p) != 3 for p in points):
    return
  if any(p is not None and isinstance(p[2], str) for p in points):
    return
  rows = [p for p in points if p is not None]
  places = [abs(_number(v) or 0.0) for p in rows for v in p[:2]]
  times = [abs(_number(p[2]) or 0.0) for p in rows]
  # Times in seconds are much smaller than pixels, in milliseconds much larger.
  if max(times) <= _APART * max(places) and min(times) >= min(places) / _APART:
    raise _Unclear(
      'two rows of three values may be two clicks with times, or x and y of '
      'three clicks; write {"x": [...], "y": [...]}, or remove the times'
    )


def _check_times(times: Sequence[Any], points: int, data: bool):
  """Checks that third values can only be times."""
  if len(times) != points:
    raise _Unclear('some clicks have two values and others three')
  # Times that are text, such as dates, cannot be positions.
  if not all(isinstance(t, str) for t in times):
    numbers = [_number(t) for t in times]
    known = [n for n in numbers if n is not None]
    if not (data or points > 1) or known != sorted(known):
      raise _Unclear(
        'the clicks have three values; expected (x, y), or '
        '(x, y, time) in the order of time'
      )
