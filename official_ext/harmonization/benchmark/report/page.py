"""The report as one HTML page that needs nothing else, and no network."""

from collections.abc import Mapping
from typing import Any

from official_ext.harmonization.benchmark.report import html
from official_ext.harmonization.benchmark.report import leaderboard
from official_ext.harmonization.benchmark.report import observers
from official_ext.harmonization.benchmark.report import protocols
from official_ext.harmonization.benchmark.report import style
from official_ext.harmonization.benchmark.report import twin_table

_TITLE = 'Alignment with people'


def build(results: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
  """Builds the page.

  Args:
    results: the content of results.json, see `docs/benchmark.md`.
    pictures: PNGs: `trade_off` and `curves` by theme, where they are there;
      `panels`, experiments to lists of `examples.draw`.

  Returns:
    The page.
  """
  sections = [
    ('leaderboard', 'Leaderboard', _leaderboard(results)),
    ('trade-off', 'Accuracy against alignment', _trade_off(results, pictures)),
    *(
      (name, experiment['title'], _experiment(name, results, pictures))
      for name, experiment in results['experiments'].items()
    ),
    ('models', 'Models and their preprocessing', _models(results)),
    ('made', 'How this was made', _made(results)),
  ]
  sections = [section for section in sections if section[2]]
  body = html.join(
    html.tag('h1', _TITLE),
    _summary(results),
    _contents(sections),
    _alarms(results),
    *(
      html.tag('section', html.tag('h2', title), content, id=name)
      for name, title, content in sections
    ),
  )
  head = html.join(
    html.Markup(
      '<meta charset="utf-8"><meta name="viewport" '
      'content="width=device-width, initial-scale=1">'
    ),
    html.tag('title', _TITLE),
    html.tag('style', html.Markup(style.CSS)),
  )
  return (
    '<!DOCTYPE html>\n'
    + html.tag(
      'html',
      html.tag('head', head),
      html.tag('body', html.tag('main', body)),
      lang='en',
    )
    + '\n'
  )


def _summary(results) -> html.Markup:
  """What the page is about, in two sentences."""
  scored, failed = len(results['models']), len(results['failures'])
  titles = [e['title'] for e in results['experiments'].values()]
  left_out = [
    f'{name} ({reason})' for name, reason in results['left_out'].items()
  ]
  return html.tag(
    'p',
    f'{scored} model{"s"[: scored != 1]} scored',
    f', {failed} failure{"s"[: failed != 1]}' if failed else '',
    f'. Measured: {"; ".join(titles)}.',
    f' Not measured: {"; ".join(left_out)}.' if left_out else '',
    f' {results["created"].replace("T", " ")}.',
    class_='quiet',
  )


def _contents(sections) -> html.Markup:
  return html.tag(
    'nav',
    html.tag(
      'ul',
      *(
        html.tag('li', html.tag('a', title, href=f'#{name}'))
        for name, title, _ in sections
      ),
    ),
  )


def _alarms(results) -> html.Markup:
  """Failures and warnings, before any number is read."""
  failures = [
    html.join(
      html.tag('strong', f['name']), f' ({f["experiment"]}): ', f['error']
    )
    for f in results['failures']
  ]
  warnings = [
    html.join(html.tag('strong', model['name']), f' ({experiment}): ', warning)
    for model in results['models']
    for experiment, result in model['experiments'].items()
    for warning in result['warnings']
  ]
  trial = (
    [f'Only the first {results["limit"]} records were scored.']
    if results['limit']
    else []
  )
  earlier = [
    html.join(
      html.tag('strong', model['name']),
      f' ({experiment}): ',
      result['earlier'],
      '.',
    )
    for model in results['models']
    for experiment, result in model['experiments'].items()
    if 'earlier' in result
  ]
  parts = (
    ('A trial', trial),
    ('Failures', failures),
    ('Warnings', warnings),
    ('Not scored this time', earlier),
    ('Found in the folder', results.get('notes', ())),
  )
  return html.join(
    *(
      html.tag('div', html.tag('h3', title), html.listed(items), class_='alarm')
      for title, items in parts
      if items
    )
  )


def _number(cell: leaderboard.Cell) -> html.Markup:
  """A score with its interval below."""
  value, _, interval = cell.text().partition(' ')
  return html.join(value, html.tag('small', interval) if interval else '')


def _table(models, columns, caption: str = '') -> html.Markup:
  """A row per model, best first, and people's; nothing of no columns."""
  if not columns:
    return html.Markup('')
  order = leaderboard.ranked(models, leaderboard.columns(models))
  rows = [
    [m['name'], *(_number(leaderboard.cell(m, c)) for c in columns)]
    for m in order
  ]
  people = leaderboard.people_cells(models, columns)
  if people:
    rows.append([observers.PEOPLE, *map(_number, people)])
  caption = f'{leaderboard.intervals(models, columns)} {caption}'.strip()
  return html.table(
    ['model', *(c.title for c in columns)], rows, caption, numeric=True
  )


def _leaderboard(results) -> html.Markup:
  models = results['models']
  if not models:
    return html.tag('p', 'No model was scored.')
  shown = leaderboard.columns(models)
  by = leaderboard.ranking_column(shown)
  return _table(
    models, leaderboard.headlines(shown), f'Ranked by {by.title}.' if by else ''
  )


def _trade_off(results, pictures) -> html.Markup:
  parts: list[Any] = []
  if 'trade_off' in pictures:
    parts.append(
      html.picture(
        pictures['trade_off'],
        'Scatter plot of accuracy and alignment, one dot per model. The table '
        'of the leaderboard holds the same numbers.',
        'A dot per model; bars are the intervals of the leaderboard. Shaded: '
        'the convex hull of the ordinary models. Arrows: from each baseline '
        'to its harmonized twin, where pairs were named (--twin).',
      )
    )
  parts.append(twin_table.build(results['models'], results['twins']))
  return html.join(*parts)


def _experiment(name: str, results, pictures) -> html.Markup:
  """What was measured, with which data, and its pictures."""
  models = [m for m in results['models'] if name in m['experiments']]
  settings = results['experiments'][name]['settings']
  columns = leaderboard.of_experiment(leaderboard.columns(models), name)
  parts = [
    html.tag('p', protocols.describe(name, settings)),
    protocols.facts(name, settings, models),
    _table(models, columns),
  ]
  if name == observers.EXPERIMENT:
    parts += _psychophysics(models, pictures)
  for panel in pictures['panels'].get(name, ()):
    parts.append(
      html.picture(
        {'light': panel['png']},
        'Rows of images, each with the human map and the maps of '
        f'{", ".join(panel["names"])}.',
        "The first images: image, human map, models' maps, each map on its "
        'own scale.',
      )
    )
  return html.join(*parts)


def _psychophysics(models, pictures) -> list[Any]:
  """Curves, and what they say beside the scores."""
  parts = [html.listed(observers.without_threshold(models))]
  if 'curves' in pictures:
    band = observers.band(models)
    parts.append(
      html.picture(
        pictures['curves'],
        'Accuracy of people and models as more of the image is revealed.',
        'Accuracy by the percent of the image that is revealed. Solid lines '
        'are people and harmonized twins, dashed ones other models'
        + (f'; the band around people is {band}' if band else '')
        + '. The dotted line is chance.',
      )
    )
  titles, rows = observers.sensitivities(models)
  if rows:
    parts.append(
      html.table(
        titles,
        rows,
        "Sensitivity d' by the part of the image that is "
        'revealed, of all answers together.',
        numeric=True,
      )
    )
  return parts


def _models(results) -> html.Markup:
  rows = [
    [
      m['name'],
      html.tag('code', m['settings']['spec']),
      '{} x {}'.format(*m['adapter']['input_size']),
      m['adapter']['num_classes'],
      m['adapter']['preprocessing'],
    ]
    for m in results['models']
  ]
  if not rows:
    return html.Markup('')
  return html.table(
    ['model', 'SPEC', 'input', 'outputs', 'preprocessing'],
    rows,
    'How each network is used.',
  )


def _made(results) -> html.Markup:
  versions = ', '.join(f'{k} {v}' for k, v in results['versions'].items())
  tables = [
    result['table']
    for model in results['models']
    for result in model['experiments'].values()
  ]
  return html.join(
    html.tag('pre', results['command']),
    html.tag('p', versions),
    html.tag(
      'p',
      'Beside this page: results.json, leaderboard.csv, '
      'leaderboard.md, leaderboard.txt, and a table of every image or '
      'trial per model:',
    ),
    html.listed([html.tag('code', table) for table in tables]),
  )
