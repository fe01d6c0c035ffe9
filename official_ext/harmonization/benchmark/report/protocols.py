"""What each experiment measures, in words, and the data that it ran on."""

from collections.abc import Mapping, Sequence
from typing import Any

from official_ext.harmonization.benchmark.report import html

# Of the settings, those that are said in words or have no meaning to readers.
_LABELS = {
  'input_path': 'data',
  'files': 'files',
  'bytes': 'bytes',
  'map_decoder': 'format',
  'label_offset': 'label offset',
  'limit': 'only the first records',
  'stimuli': 'stimuli',
  'human': "people's answers",
  'rule': 'decision rule',
  'framing': 'framing of stimuli',
}

# What a map is, for those that a name does not tell it.
_MAPS = {
  'gradient': 'the largest magnitude over colour channels of the gradient of '
  "the label's logit with respect to the image",
  'training_map': 'the mean over colour channels of the gradient of the '
  "label's logit with respect to the image",
}


def describe(name: str, settings: Mapping[str, Any]) -> str:
  """Says what an experiment measures.

  Args:
    name: of the experiment.
    settings: of it, as in results.json.

  Returns:
    A few sentences.
  """
  if name == 'imagenet':
    return (
      'Top-1 accuracy. The central 87.5 % of each image is resized to '
      "the model's input size."
    )
  if name == 'psychophysics':
    return (
      'Each model answers animal or not for images of which a growing '
      'part, the most important to people, is revealed. Its curve of '
      'accuracy is compared with that of people. The threshold is the '
      'percent revealed at which a fitted curve is halfway from chance '
      "to its upper end; d' is the sensitivity to animals."
    )
  return _describe_where(settings)


def _describe_where(settings) -> str:
  size = settings['comparison_size']
  size = (
    "the model's input size" if size == 'native' else f'{size} x {size} pixels'
  )
  blurred = (
    'The human map is blurred as in the ClickMe release. '
    if settings['blur']
    else 'The human map is not blurred. '
  )
  ceiling = settings['ceiling']
  explainer = settings['explainer']
  return (
    f"Each model's map of an image ({_MAPS.get(explainer, explainer)}) is "
    'compared '
    f"with people's map at {size}. {blurred}rho is Spearman's rank "
    'correlation, ties sharing their average rank; Dice and IoU compare what '
    "lies above each map's 90th percentile. "
    + (
      'Scores are raw: no human ceiling was given.'
      if ceiling is None
      else f'Alignment is the mean rho over the ceiling of {ceiling:.4f}, '
      'which is the score of people among each other.'
    )
  )


def facts(
  name: str, settings: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> html.Markup:
  """Lists the data of an experiment and how much of it was scored.

  Args:
    name: of the experiment.
    settings: of it, as in results.json.
    models: that have been through it.

  Returns:
    A list of terms.
  """
  known = [
    (label, settings[key])
    for key, label in _LABELS.items()
    if settings.get(key) is not None
  ]
  known.append(('images scored', _counts(name, models)))
  return html.tag(
    'dl',
    *(
      html.join(html.tag('dt', label), html.tag('dd', value))
      for label, value in known
    ),
  )


def _counts(name, models) -> str:
  """How many images have a score: of each model, if they differ."""
  counts = {}
  for model in models:
    scored = model['experiments'][name]['scores']
    first = next(iter(scored.values()), None)
    if first:
      key = (first['n'], first['n_undefined'])
      counts.setdefault(key, []).append(model['name'])
  said = []
  for (n, undefined), names in counts.items():
    words = f'{n}' + (f' ({undefined} undefined)' if undefined else '')
    said.append(words if len(counts) == 1 else f'{words}: {", ".join(names)}')
  return '; '.join(said) or 'none'
