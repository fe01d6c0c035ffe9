r"""Scores any networks against people: where they look and how they decide.

  python -m official_ext.harmonization.evaluate \
      --model=mg:runs/digits/baseline --model=mg:runs/digits/harmonized \
      --clickme='data/digits/val/*.tfrecords' --ceiling=1 \
      --twin=baseline:harmonized --output_dir=runs/alignment

Give --model as often as there are models, each as KIND:TARGET (--clickme and
the other experiments run on every one), and at least one of --clickme,
--clicktionary, --psychophysics, --imagenet. In --output_dir stand then
report.html, which needs nothing beside it, leaderboard.txt, .md and .csv,
results.json, the plots, and a table of every image or trial per model.

Run it again to resume: a result is scored again only if something that it
depends on has changed, and is otherwise labelled with its date. Several
processes may share --output_dir. A model that fails is reported and does not
lose the others; the exit code is then 1. docs/benchmark.md describes the
protocols.
"""

import datetime
import platform
import shlex
import sys
from typing import Any

from absl import flags

from official_ext.harmonization import cli
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import accuracy
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import run as benchmark_run
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.benchmark.protocols import clickme
from official_ext.harmonization.benchmark.protocols import (
  psychophysics as psychophysics_protocol,
)
from official_ext.harmonization.benchmark.psychophysics import decisions
from official_ext.harmonization.benchmark.psychophysics import (
  scoring as psychophysics,
)
from official_ext.harmonization.benchmark.report import leaderboard
from official_ext.harmonization.benchmark.report import writer
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.data.records import clickme_release
from official_ext.harmonization.dataloaders import registry
from official_ext.harmonization.ops import blur

FLAGS = flags.FLAGS

_MODULE = 'official_ext.harmonization.evaluate'

_EXPERIMENTS = ('imagenet', 'clickme', 'clicktionary', 'psychophysics')


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_multi_string(
    'model', [], 'A model, as often as there are models. ' + spec.usage()
  )
  flags.DEFINE_string(
    'output_dir',
    'runs/alignment',
    'Where results are written, and read to go on.',
  )
  flags.DEFINE_integer(
    'batch_size',
    32,
    'Images that a model is given at a time. No score depends on it.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'limit',
    None,
    'Only the first so many records of each file set, for a trial.',
    lower_bound=1,
  )
  flags.DEFINE_multi_string(
    'twin',
    [],
    'BASELINE:HARMONIZED, names of two models: an arrow in the '
    'plot. May be given several times.',
  )
  flags.DEFINE_bool(
    'rescore',
    False,
    'Score again, even where nothing has changed. Earlier '
    'results are kept in models/earlier.',
  )
  _define_where_flags()
  _define_other_flags()


def _define_where_flags():
  """Flags of ClickMe and Clicktionary."""
  flags.DEFINE_string('clickme', None, 'Records of ClickMe: paths or globs.')
  flags.DEFINE_string('clicktionary', None, 'Records of Clicktionary.')
  flags.DEFINE_enum(
    'map_decoder',
    'clickme',
    registry.names(),
    'Format of the records with maps.',
  )
  flags.DEFINE_enum(
    'clicktionary_map_decoder',
    None,
    registry.names(),
    'Format of --clicktionary, if it is another.',
  )
  flags.DEFINE_integer(
    'label_offset',
    None,
    'Added to the labels of records with maps to give '
    'the classes that are scored, 0..999 for ImageNet. 0 by default, but '
    'with --map_decoder=canonical, whose labels it must be said for: -1 if '
    'they are 1..1000.',
  )
  flags.DEFINE_integer(
    'clicktionary_label_offset',
    None,
    '--label_offset of --clicktionary, if it is another.',
  )
  flags.DEFINE_float(
    'raw_image_max',
    255.0,
    "The value of white where a format's pixels are raw: 255 or 1.",
  )
  flags.DEFINE_bool(
    'blur', True, 'Blur human maps as the ClickMe release does.'
  )
  flags.DEFINE_enum(
    'map_resize',
    None,
    blur.RESIZES,
    'How human maps come to the size that '
    'is blurred: by the few pixels that the release looks at, or by all. By '
    'default antialias for canonical records, else released.',
  )
  flags.DEFINE_enum(
    'blur_kernel',
    'released',
    blur.KERNELS,
    'The kernel of --blur: the released one moves maps by half a cell.',
  )
  flags.DEFINE_integer(
    'comparison_size',
    clickme.RELEASED_SIZE,
    'Height and width that maps are '
    "compared at; 0 for each model's own input size.",
    lower_bound=0,
  )
  flags.DEFINE_float(
    'ceiling',
    None,
    'The rank correlation of people among each other, which '
    f'counts as 1 in --clickme. By default {exp_cfg.CLICKME_CEILING:.5f} for '
    "ClickMe's release as data.download_clickme left it, and for all other "
    'records 1: raw scores.',
  )
  flags.DEFINE_float(
    'clicktionary_ceiling',
    1.0,
    '--ceiling of --clicktionary. 1 for raw scores.',
  )
  flags.DEFINE_enum(
    'explainer',
    'gradient',
    sorted(explainers.EXPLAINERS),
    "How a model's map is made.",
  )


def _define_other_flags():
  """Flags of ImageNet and the psychophysics."""
  flags.DEFINE_string(
    'imagenet',
    None,
    'Labelled records of ImageNet in Model '
    "Garden's fields, for the plot against accuracy.",
  )
  flags.DEFINE_integer(
    'imagenet_label_offset',
    -1,
    'Added to the labels of --imagenet; -1 takes 1..1000 to 0..999.',
  )
  flags.DEFINE_string(
    'psychophysics', None, 'Folder of stimuli, see docs/psychophysics.md.'
  )
  flags.DEFINE_string(
    'human_trials',
    None,
    'CSV file of the answers of people '
    'to --psychophysics, or of their accuracy per level.',
  )
  flags.DEFINE_enum(
    'rule', 'split_398', decisions.RULES, 'How logits become an answer.'
  )
  flags.DEFINE_enum(
    'framing',
    'resize',
    psychophysics.FRAMINGS,
    "How a stimulus comes to a model's input size.",
  )
  flags.DEFINE_list(
    'animal_classes',
    None,
    "Numbers of the classes that are animals, where they are not ImageNet's.",
  )


def _unused():
  """Yields why flags have no effect, and their names."""
  maps = [
    kind
    for name, kind in (
      ('clickme', FLAGS.map_decoder),
      ('clicktionary', FLAGS.clicktionary_map_decoder or FLAGS.map_decoder),
    )
    if FLAGS[name].value
  ]
  if not maps:
    yield (
      'without --clickme or --clicktionary',
      (
        'map_decoder',
        'label_offset',
        'raw_image_max',
        'blur',
        'map_resize',
        'blur_kernel',
        'comparison_size',
        'explainer',
      ),
    )
  elif not any(map(registry.is_raw, maps)):
    yield (
      f'on records of the format {" or ".join(dict.fromkeys(maps))}, '
      'whose images are encoded',
      ('raw_image_max',),
    )
  if not FLAGS.blur:
    yield 'with --noblur', ('map_resize', 'blur_kernel')
  for name, names in (
    ('clickme', ('ceiling',)),
    (
      'clicktionary',
      (
        'clicktionary_map_decoder',
        'clicktionary_label_offset',
        'clicktionary_ceiling',
      ),
    ),
    ('imagenet', ('imagenet_label_offset',)),
    ('psychophysics', ('rule', 'framing', 'animal_classes')),
  ):
    if not FLAGS[name].value:
      yield f'without --{name}', names


def _label_offset(offset: int | None, map_decoder: str, flag: str) -> int:
  """What is added to labels; it must be said where nothing is known of them."""
  if offset is None and map_decoder == 'canonical':
    raise benchmark_run.SettingsError(
      f'Set --{flag} with canonical records: 0 if their labels are the '
      "model's classes, -1 if they are Model Garden's 1..1000."
    )
  return offset or 0


def _where(
  name: str,
  path: str,
  map_decoder: str,
  label_offset: int | None,
  ceiling: float | None,
) -> clickme.ClickMeProtocol:
  """ClickMe or Clicktionary as the flags have it."""
  prefix = '' if name == 'clickme' else f'{name}_'
  source = labelled_images.Source(
    input_path=_working_paths(path),
    map_decoder=map_decoder,
    label_offset=_label_offset(
      label_offset, map_decoder, f'{prefix}label_offset'
    ),
    raw_image_max=FLAGS.raw_image_max,
    blur=FLAGS.blur,
    map_resize=FLAGS.map_resize,
    blur_kernel=FLAGS.blur_kernel,
    limit=FLAGS.limit,
  )
  if ceiling is None:
    ceiling = _known_ceiling(source)
  if not 0 < ceiling <= 1:
    raise benchmark_run.SettingsError(
      f'--{prefix}ceiling={ceiling} is not the rank correlation of people; '
      'expected more than 0 and at most 1, such as 0.65753. Give 1 for raw '
      'scores.'
    )
  return clickme.ClickMeProtocol(
    name,
    source,
    batch_size=FLAGS.batch_size,
    explainer=FLAGS.explainer,
    ceiling=None if ceiling == 1.0 else ceiling,
    comparison_size=FLAGS.comparison_size or None,
  )


def _known_ceiling(source: labelled_images.Source) -> float:
  """The ceiling of records that do not come with one on the command line."""
  digests = identity.Digests(
    benchmark_run.digests_path(resources.working_path(FLAGS.output_dir))
  )
  if source.map_decoder == 'clickme' and clickme_release.is_release(
    source.files(), digests.file
  ):
    return exp_cfg.CLICKME_CEILING
  return 1.0


def _working_paths(paths: str) -> str:
  return ','.join(resources.working_path(p.strip()) for p in paths.split(','))


def _imagenet() -> accuracy.ImageNet:
  source = labelled_images.Source(
    input_path=_working_paths(FLAGS.imagenet),
    map_decoder='canonical',
    label_offset=FLAGS.imagenet_label_offset,
    has_maps=False,
    center_crop=True,
    limit=FLAGS.limit,
  )
  return accuracy.ImageNet(source, FLAGS.batch_size)


def _how() -> psychophysics_protocol.PsychophysicsProtocol:
  classes = FLAGS.animal_classes
  human = FLAGS.human_trials
  return psychophysics_protocol.PsychophysicsProtocol(
    resources.working_path(FLAGS.psychophysics),
    batch_size=FLAGS.batch_size,
    human=resources.working_path(human) if human else None,
    rule=FLAGS.rule,
    framing=FLAGS.framing,
    animal_classes=[int(c) for c in classes] if classes else None,
  )


def _experiments() -> list[Any]:
  """The experiments that the flags ask for.

  Returns:
    Them, in the order of the report.

  Raises:
    SettingsError: there is none, or a flag contradicts another.
  """
  if FLAGS.human_trials and not FLAGS.psychophysics:
    raise benchmark_run.SettingsError(
      '--human_trials needs the stimuli that '
      'people answered to: add --psychophysics.'
    )
  unused = cli.without_effect(_unused())
  if unused and any(FLAGS[name].value for name in _EXPERIMENTS):
    raise benchmark_run.SettingsError(unused)
  makers = {
    'imagenet': _imagenet,
    'clickme': lambda: _where(
      'clickme',
      FLAGS.clickme,
      FLAGS.map_decoder,
      FLAGS.label_offset,
      FLAGS.ceiling,
    ),
    'clicktionary': _clicktionary,
    'psychophysics': _how,
  }
  experiments = [makers[name]() for name in _EXPERIMENTS if FLAGS[name].value]
  if not experiments:
    raise benchmark_run.SettingsError(
      'nothing is to be measured: add at least one of '
      + ', '.join(f'--{name}' for name in _EXPERIMENTS)
      + '.'
    )
  return experiments


def _clicktionary() -> clickme.ClickMeProtocol:
  offset = FLAGS.clicktionary_label_offset
  return _where(
    'clicktionary',
    FLAGS.clicktionary,
    FLAGS.clicktionary_map_decoder or FLAGS.map_decoder,
    FLAGS.label_offset if offset is None else offset,
    FLAGS.clicktionary_ceiling,
  )


def _twins(models: list[benchmark_run.Model]) -> list[tuple[str, str]]:
  """The pairs of --twin, whose names must be those of models."""
  names = [model.name for model in models]
  pairs = []
  for text in FLAGS.twin:
    baseline, _, twin = text.partition(':')
    if not {baseline, twin} <= {*names} or baseline == twin:
      raise benchmark_run.SettingsError(
        f'--twin={text} must be the names of two models, '
        f'BASELINE:HARMONIZED; they are called {", ".join(names)}.'
      )
    pairs.append((baseline, twin))
  return pairs


def _results(experiments, outcome, twins) -> dict[str, Any]:
  """The content of results.json."""
  asked = {e.name: e for e in experiments}
  return {
    'created': datetime.datetime.now()
    .astimezone()
    .isoformat(timespec='seconds'),
    # However it was started: results travel, paths do not.
    'command': f'python -m {_MODULE} {shlex.join(sys.argv[1:])}',
    'versions': {
      'python': platform.python_version(),
      **identity.versions(*FLAGS.model),
    },
    'limit': FLAGS.limit,
    'experiments': {
      name: {'title': e.title, 'settings': e.settings()}
      for name, e in asked.items()
    },
    'left_out': {
      name: f'no --{name}' for name in _EXPERIMENTS if name not in asked
    },
    'twins': twins,
    **outcome,
  }


def _evaluate() -> dict[str, Any]:
  """Does what the flags say, and writes the report.

  Returns:
    The content of results.json.
  """
  output_dir = resources.working_path(FLAGS.output_dir)
  models = benchmark_run.parse_models(FLAGS.model)
  twins = _twins(models)
  experiments = _experiments()
  written = []
  outcome = benchmark_run.Benchmark(
    experiments, output_dir, spec.build, FLAGS.rescore
  ).run(
    models,
    lambda outcome: written.extend(
      writer.write(output_dir, _results(experiments, outcome, twins))
    ),
  )
  results = _results(experiments, outcome, twins)
  if outcome['models']:
    print('\n' + leaderboard.as_text(outcome['models']))
  _print_notes(results)
  print('\nWritten: ' + ', '.join(written))
  return results


def _print_notes(results):
  """Says what a reader of the table must know."""
  for sentence in leaderboard.origins(results['models']):
    print(sentence)
  for model in results['models']:
    for name, result in model['experiments'].items():
      for warning in result['warnings']:
        print(f'WARNING {model["name"]} ({name}): {warning}')
  if results['failures']:  # Each was printed when it happened.
    failed = dict.fromkeys(f['name'] for f in results['failures'])
    print(f'FAILED: {", ".join(failed)}; see above, or the report.')
  for name, reason in results['left_out'].items():
    print(f'Not measured: {name} ({reason}).')
  if results['limit']:
    print(f'A trial: only the first {results["limit"]} records were scored.')


def main(argv):
  """Scores what the flags name."""
  if argv[1:]:
    raise SystemExit(
      f'evaluate: {argv[1]!r} is no flag; models are given as '
      '--model=KIND:TARGET.'
    )
  try:
    results = _evaluate()
  except (benchmark_run.SettingsError, labelled_images.BadDataError) as e:
    raise SystemExit(f'evaluate: {e}') from None
  if results['failures']:
    raise SystemExit(1)


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__, takes_arguments=True)


if __name__ == '__main__':
  run()
