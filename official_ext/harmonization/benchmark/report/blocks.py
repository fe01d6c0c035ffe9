# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What sections of the report consist of: pictures, tables, text.

Protocols hand them over; the template of the page shows them.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar, NamedTuple


class Cell(NamedTuple):
  """A cell of a table.

  Attributes:
    text: of the cell.
    note: below it, in small print.
    is_code: whether the text is shown as code.
  """

  text: Any
  note: str = ''
  is_code: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """A table; the first cell of a row is its heading.

  Attributes:
    titles: of the columns.
    rows: of `Cell`s, or of texts and numbers.
    caption: what the table shows.
    is_numeric: whether all cells but the first of a row hold numbers.
  """

  kind: ClassVar = 'table'
  titles: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str
  is_numeric: bool = False

  def cells(self) -> list[list[Cell]]:
    """Returns the rows with a `Cell` for each text or number."""
    return [
      [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
      for row in self.rows
    ]


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that is part of the page.

  Attributes:
    png: the picture, on a light ground.
    alt: a description for readers who cannot see it.
    caption: below the picture.
    file: the name of a file that `png` is also written to.
    dark_png: the picture for dark screens, or None.
    narrow: the picture for narrow screens, light and dark, or None.
  """

  kind: ClassVar = 'picture'
  png: bytes
  alt: str
  caption: str
  file: str
  dark_png: bytes | None = None
  narrow: tuple[bytes, bytes] | None = None


@dataclasses.dataclass(frozen=True)
class Paragraph:
  """A paragraph of text."""

  kind: ClassVar = 'paragraph'
  text: str


@dataclasses.dataclass(frozen=True)
class Sentences:
  """A list of sentences, or of code."""

  kind: ClassVar = 'sentences'
  items: Sequence[str]
  is_code: bool = False


@dataclasses.dataclass(frozen=True)
class Command:
  """A command line."""

  kind: ClassVar = 'command'
  text: str


@dataclasses.dataclass(frozen=True)
class Facts:
  """Terms and their values, with an optional heading."""

  kind: ClassVar = 'facts'
  items: Sequence[tuple[str, Any]]
  title: str = ''


Block = Table | Picture | Paragraph | Sentences | Command | Facts
