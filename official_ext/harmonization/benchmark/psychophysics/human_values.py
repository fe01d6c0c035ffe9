# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What a score's details hold about people, typed."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from official_ext.harmonization.evaluation import scores


@dataclasses.dataclass(frozen=True)
class Value:
  """A number with its interval and test; NaN where unknown.

  Attributes:
    value: the number.
    low: lower end of its interval.
    high: upper end of its interval.
    interval: how the interval was computed, as captions say it.
    p: of a test, or NaN.
  """

  value: float = math.nan
  low: float = math.nan
  high: float = math.nan
  interval: str = ''
  p: float = math.nan

  def to_json(self) -> dict[str, Any]:
    """Returns the fields in strict JSON's types."""
    return scores.json_safe(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, content: Mapping[str, Any] | None) -> 'Value':
    """Reads what `to_json` returned; all is NaN for None."""
    names = {f.name for f in dataclasses.fields(cls)}
    known: dict[str, Any] = {
      name: math.nan if value is None else value
      for name, value in (content or {}).items()
      if name in names
    }
    return cls(**known)


@dataclasses.dataclass(frozen=True)
class HumanValues:
  """What is known about people for a score of a network.

  Attributes:
    people: the same number for people.
    difference: the network's minus people's, with its test.
    p: of the test that the network's number is 0, or NaN.
    participants: the number for each participant against the others.
  """

  people: Value
  difference: Value
  p: float
  participants: Mapping[str, float]

  @classmethod
  def of(cls, score: scores.Score) -> 'HumanValues':
    """Reads the details of a score, of which none need to exist."""
    found = score.details
    p = found.get('p')
    return cls(
      Value.from_json(found.get('people')),
      Value.from_json(found.get('difference')),
      math.nan if p is None else float(p),
      {
        name: math.nan if value is None else float(value)
        for name, value in (found.get('participants') or {}).items()
      },
    )
