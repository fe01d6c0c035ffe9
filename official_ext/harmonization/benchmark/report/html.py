"""HTML that is escaped: everything but what this module makes itself."""

import base64
from collections.abc import Mapping, Sequence
import html
from typing import Any


class Markup(str):
  """HTML that is safe as it is."""


def text(value: Any) -> Markup:
  """Escapes a value, unless it is `Markup` already."""
  return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def tag(name: str, *children: Any, **attributes: str | None) -> Markup:
  """Makes an element.

  Args:
    name: of the element.
    *children: its content: `Markup`, or anything else, which is escaped.
    **attributes: its attributes, `class_` for class; None leaves one out.

  Returns:
    The element.
  """
  written = ''.join(
    f' {key.rstrip("_")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  return Markup(f'<{name}{written}>{join(*children)}</{name}>')


def join(*children: Any) -> Markup:
  """Puts elements after each other."""
  return Markup(''.join(text(child) for child in children))


def listed(items: Sequence[Any]) -> Markup:
  """Makes a list; nothing of nothing."""
  if not items:
    return Markup('')
  return tag('ul', *(tag('li', item) for item in items))


def table(
  titles: Sequence[Any],
  rows: Sequence[Sequence[Any]],
  caption: str,
  numeric: bool = False,
) -> Markup:
  """Makes a table, each row headed by its first cell.

  Args:
    titles: of the columns.
    rows: of cells.
    caption: what the table shows.
    numeric: whether the cells behind the first hold numbers.

  Returns:
    The table, in a box that scrolls where it is too wide.
  """
  head = tag('thead', tag('tr', *(tag('th', t, scope='col') for t in titles)))
  body = tag(
    'tbody',
    *(
      tag(
        'tr', tag('th', row[0], scope='row'), *(tag('td', c) for c in row[1:])
      )
      for row in rows
    ),
  )
  return tag(
    'div',
    tag(
      'table',
      tag('caption', caption),
      head,
      body,
      class_='numbers' if numeric else None,
    ),
    class_='wide',
  )


def _data(png: bytes) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png).decode()


def picture(pngs: Mapping[str, bytes], alt: str, caption: Any) -> Markup:
  """Makes a figure of pictures that travel inside the page.

  Args:
    pngs: 'light', and 'dark' where there is one for a dark page on a screen.
    alt: what there is to see, for those who cannot.
    caption: below it.

  Returns:
    The figure.
  """
  escaped = html.escape(alt)
  image = Markup(f'<img src="{_data(pngs["light"])}" alt="{escaped}">')
  if 'dark' in pngs:
    image = Markup(
      '<picture><source media="screen and (prefers-color-scheme: dark)" '
      f'srcset="{_data(pngs["dark"])}">{image}</picture>'
    )
  return tag('figure', image, tag('figcaption', caption))
