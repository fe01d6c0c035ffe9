"""What psychophysics finds beside its scores: thresholds, d', and people.

Results hold them in the curves of models and people. Here they become scores
for the tables, with the fields of `scores.Score.to_json`, and a row for people.
"""

from collections.abc import Mapping, Sequence
from typing import Any

EXPERIMENT = 'psychophysics'
# A row beside those of models, whose names have no brackets.
PEOPLE = 'people (distances: split halves)'

_ACCURACY = f'{EXPERIMENT}_accuracy'
_FULL_LEVEL = 200


def result(model: Mapping[str, Any]) -> Mapping[str, Any]:
  """A model's result in the experiment; empty if it was not measured."""
  return model['experiments'].get(EXPERIMENT, {})


def curve_of(
  model: Mapping[str, Any], observer: str = 'model'
) -> Mapping[str, Any] | None:
  """A curve as `accuracy_curves.Curve.to_json` has it; None without one.

  Args:
    model: as `benchmark.Benchmark.run` returns it.
    observer: 'model', or 'human' for people.
  """
  return (result(model).get('curves') or {}).get(observer)


def of_people(models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
  """People's curve, the same for all models; None where it is not known."""
  return next(filter(None, (curve_of(m, 'human') for m in models)), None)


def scores_of_curve(
  curve: Mapping[str, Any], confidence: float = 0.95
) -> dict[str, dict[str, Any]]:
  """The numbers of a curve that tables show.

  Args:
    curve: as `accuracy_curves.Curve.to_json` has it.
    confidence: of the threshold's interval.

  Returns:
    Scores by name: `psychophysics_threshold`, in percent of the image, and
    `psychophysics_d_prime`, the mean over levels. Only what the curve holds.
  """
  found = {}
  if 'threshold' in curve:
    low, high = curve.get('threshold_interval') or (None, None)
    found[f'{EXPERIMENT}_threshold'] = {
      'value': curve['threshold'],
      'low': low,
      'high': high,
      'ceiling': None,
      'confidence': confidence,
      'details': {'bootstrap': 'images'},
    }
  values = [v for v in curve.get('d_prime', ()) if v is not None]
  if values:
    complete = len(values) == len(curve['d_prime'])
    found[f'{EXPERIMENT}_d_prime'] = {
      'value': sum(values) / len(values) if complete else None,
      'ceiling': None,
    }
  return found


def scores_of(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The scores that a model's curve adds to its own, by name."""
  curve = curve_of(model)
  if not curve:
    return {}
  accuracy = result(model)['scores'].get(_ACCURACY, {})
  return scores_of_curve(curve, accuracy.get('confidence', 0.95))


def people(models: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """People's own scores, in the columns of models.

  Args:
    models: as `benchmark.Benchmark.run` returns them.

  Returns:
    Scores by name; empty where people's answers are not known. A distance is
    that between random halves of the participants.
  """
  curve = of_people(models)
  if curve is None:
    return {}
  found = scores_of_curve(curve)
  accuracy = curve['accuracy']
  found[_ACCURACY] = {'value': sum(accuracy) / len(accuracy), 'ceiling': None}
  for model in models:
    for name, score in result(model).get('scores', {}).items():
      halves = (score.get('details') or {}).get('people_split_half')
      if halves is not None:
        found.setdefault(name, {'value': halves, 'ceiling': None})
  return found


def sensitivities(
  models: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
  """The sensitivity d' at each level.

  Args:
    models: as `benchmark.Benchmark.run` returns them.

  Returns:
    The titles of the columns, and a row per model and for people; no rows
    where no curve has them.
  """
  curves = [(m['name'], curve_of(m)) for m in models]
  curves.append(('people', of_people(models)))
  curves = [
    (name, c)
    for name, c in curves
    if c and any(v is not None for v in c.get('d_prime', ()))
  ]
  percents = {
    level: percent
    for _, c in curves
    for level, percent in zip(c['levels'], c['percents'])
  }
  rows = []
  for name, c in curves:
    found = dict(zip(c['levels'], c['d_prime']))
    values = [found.get(level) for level in sorted(percents)]
    rows.append([name, *('-' if v is None else f'{v:.2f}' for v in values)])
  titles = [
    'full' if level == _FULL_LEVEL else f'{percents[level]:.3g} %'
    for level in sorted(percents)
  ]
  return ['model', *titles], rows


def without_threshold(models: Sequence[Mapping[str, Any]]) -> list[str]:
  """Says why a model, or people, have no threshold."""
  curves = [(m['name'], curve_of(m)) for m in models]
  curves.append(('people', of_people(models)))
  return [
    f'{name}: no threshold, for {c["logistic"]["problem"]}.'
    for name, c in curves
    if c and c.get('logistic', {}).get('problem')
  ]


def band(models: Sequence[Mapping[str, Any]]) -> str:
  """Says what the band around people's curve is; '' if it is not drawn."""
  curve = of_people(models)
  if curve is None or all(v is None for v in curve['standard_error']):
    return ''
  participants = next(
    (
      score['details']['n_participants']
      for model in models
      for score in result(model).get('scores', {}).values()
      if 'n_participants' in (score.get('details') or {})
    ),
    None,
  )
  if participants is None:
    return "one standard error, as given with people's accuracies"
  if participants == 1:
    return 'one standard error over the images of the only participant'
  return f'one standard error over the {participants} participants'
