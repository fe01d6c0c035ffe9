# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures which explanation and which score find the network behind clicks.

  python -m studies.model_recovery

For each network of a set, the truth, people are simulated who see as it does:
they click where its map is large, and their clicks become human maps by the
tools that read real clicks. All networks are then scored on these human maps,
by every explanation and score. A score is useful if the truth comes first, even
if the clicks were drawn from another explanation than the one that is scored,
because nobody knows which one people would give.

The rule that was set before the study was run: prefer the explanation and score
by which the truth comes first most often among networks, random twins and
controls, with clicks drawn from other explanations and the largest numbers of
images and participants; of equal ones, the simpler. `controlled` divides
`specific` by what people reach, which is the same number for all networks, so
that both have the same ranks. The study only has `specific`.

By default, ten small networks are trained on the digits. For others, give a
SPEC each, and records of images:

  python -m studies.model_recovery --comparison_size=224 --images=20 \
      --model='keras_app:VGG16' --model='keras_app:ResNet50V2' \
      --clickme='records/train*' --output_dir=runs/recovery_photographs

Files in --output_dir: rows.csv.gz, a row for each truth and candidate;
recovery.csv and recovery.md, how often the truth comes first; recovery.png.
Maps and finished parts are kept; run the command again to continue.
"""

from collections.abc import Iterator, Sequence
import csv
import gzip
import itertools
import os
from typing import Any

from absl import flags
import numpy as np
from scipy import stats
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import specific_alignment
from official_ext.harmonization.data.records import digits
from studies import recovery_maps
from studies import recovery_networks
from studies import recovery_report
from studies import recovery_scores

FLAGS = flags.FLAGS

# The candidates, named before the study was run. `published` is the score of
# the ClickMe release: the map as it is, and the human map with the release's
# blur. All others blur both maps by the same Gaussian, whose width is in pixels
# of a map of 224 x 224.
PUBLISHED = 'published'
BLURS = (PUBLISHED, *specific_alignment.WIDTHS)
_PUBLISHED_METRICS = ('spearman', 'dice', 'auc')
EXPLAINERS = (
  'gradient',
  'gradient_x_input',
  'smoothgrad',
  'smoothgrad_squared',
  'integrated_gradients',
  'grad_cam',
  'occlusion',
)
_VERSION = 1


def define_flags():
  """Defines the flags."""
  flags.DEFINE_multi_string(
    'model',
    [],
    'A network, as a SPEC; repeat the flag for more. By default, ten networks '
    'are trained on the digits.',
  )
  flags.DEFINE_string('clickme', 'data/digits/val/*.tfrecords', 'Records.')
  flags.DEFINE_integer('label_offset', 0, 'As for evaluate.')
  flags.DEFINE_string('group_by', '', 'As for evaluate.')
  flags.DEFINE_list('explainers', [*EXPLAINERS], 'Of truths and of candidates.')
  flags.DEFINE_integer(
    'explainer_samples', 25, 'Samples or steps of explainers that have them.'
  )
  flags.DEFINE_list(
    'images', ['20', '50'], 'Numbers of images that are scored.'
  )
  flags.DEFINE_list('participants', ['2', '10'], 'Participants of an image.')
  flags.DEFINE_float('clicks', 30, 'Mean clicks of a participant on an image.')
  flags.DEFINE_integer(
    'random_twins', 1, 'Fresh weights that compete, for each network.'
  )
  flags.DEFINE_integer('comparison_size', 56, 'Height and width of the maps.')
  flags.DEFINE_string(
    'output_dir', 'runs/model_recovery', 'Folder of the results.'
  )
  flags.DEFINE_string(
    'runs_dir', 'runs/leaderboard', 'Folder of the trained networks.'
  )
  flags.DEFINE_string('data_dir', 'data/digits', 'Folder of the digits.')


def subsets(sizes: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
  """Draws disjoint subsets of the images for each size.

  Args:
    sizes: of the subsets, at most `count`.
    count: number of images.

  Returns:
    Which images are in each subset, bool (S, count), and the size of each.
  """
  order = np.random.default_rng(0).permutation(count)
  members, found = [], []
  for size in sizes:
    for start in range(0, count - size + 1, size):
      member = np.zeros(count, bool)
      member[order[start : start + size]] = True
      members.append(member)
      found.append(size)
  return np.array(members), np.array(found)


def ranks(values: np.ndarray) -> np.ndarray:
  """Ranks candidates; equal ones share a rank, and undefined ones are last.

  Args:
    values: (..., candidates), larger is better.

  Returns:
    float64, from 1, of the same shape.
  """
  worst = np.where(np.isnan(values), -np.inf, values)
  return stats.rankdata(-worst, axis=-1)


def _names(blur: Any) -> list[str]:
  if blur == PUBLISHED:
    return [*_PUBLISHED_METRICS]
  return [*recovery_scores.NAMES]


class Study:
  """The scores of all rows on all sets of simulated people."""

  def __init__(
    self, folder: recovery_maps.Folder, images: Sequence[int], output_dir: str
  ):
    """Initializes the study.

    Args:
      folder: with the maps of all rows.
      images: numbers of images that are scored.
      output_dir: folder of finished parts.
    """
    self._folder, self._output_dir = folder, output_dir
    self._images = images
    self.subsets, self.sizes = subsets(images, folder.n)
    self.people = [
      (truth, explainer, number)
      for explainer in folder.settings.explainers
      for truth in folder.truths
      if folder.key(truth, explainer)
      for number in folder.settings.participants
    ]

  def candidates(self, explainer: str) -> list[str]:
    """Returns the rows that have maps by an explainer."""
    return [r for r in self._folder.rows if self._folder.key(r, explainer)]

  def values(self, explainer: str, blur: Any) -> np.ndarray:
    """Computes the scores by one explainer at one blur, unless they are kept.

    Args:
      explainer: of the candidates' maps.
      blur: one of `BLURS`.

    Returns:
      float64 (people, candidates, scores, subsets).
    """
    candidates = self.candidates(explainer)
    depends_on = [
      [self._folder.key(name, explainer) for name in candidates],
      [[self._folder.key(t, e), t, e, p] for t, e, p in self.people],
      [*self._images, self._folder.groups.tolist()],
      [self._folder.settings.clicks, self._folder.settings.size],
      _VERSION,
    ]
    return recovery_maps.kept(
      os.path.join(self._output_dir, 'blocks', f'{explainer}.{blur}.npz'),
      depends_on,
      lambda: {'values': self._compute(explainer, blur, candidates)},
    )['values']

  def _compute(self, explainer, blur, candidates):
    width = 0 if blur == PUBLISHED else blur
    model = [
      recovery_scores.model_features(
        specific_alignment.blur(self._folder.maps(name, explainer), width)
      )
      for name in candidates
    ]
    metrics = (
      _PUBLISHED_METRICS if blur == PUBLISHED else recovery_scores.METRICS
    )
    names = _names(blur)
    found = np.full(
      (len(self.people), len(candidates), len(names), len(self.subsets)), np.nan
    )
    for i, (truth, seen, number) in enumerate(
      tqdm.tqdm(self.people, f'{explainer}, blur {blur}', disable=None)
    ):
      kind = 'released' if blur == PUBLISHED else 'plain'
      maps = self._folder.people(truth, seen)[f'{kind}-{number}']
      people = recovery_scores.human_features(
        specific_alignment.blur(maps, width)
      )
      for j, features in enumerate(model):
        scores = recovery_scores.scores(
          features, people, self.subsets, self._folder.groups, metrics
        )
        found[i, j] = [scores[name] for name in names]
    return found

  def rows(self) -> Iterator[dict[str, Any]]:
    """Yields a row for each truth, candidate, explainer, score and setting.

    Ranks are means over subsets of the images, and `first` is the part of the
    subsets in which no other candidate is as good. Both are given among the
    networks, and among networks, random twins and controls (`_of_all`).
    """
    for explainer in self._folder.settings.explainers:
      candidates = self.candidates(explainer)
      networks = [c in self._folder.truths for c in candidates]
      for blur in BLURS:
        values = np.moveaxis(self.values(explainer, blur), 1, -1)
        of_all = ranks(values)
        among = np.full(values.shape, np.nan)
        among[..., networks] = ranks(values[..., networks])
        is_first = np.where(np.isnan(among), np.nan, among == 1)
        columns = {
          'value': values,
          'rank': among,
          'first': is_first,
          'rank_of_all': of_all,
          'first_of_all': of_all == 1,
        }
        for size in self._images:
          chosen = self.sizes == size
          means = {k: v[:, :, chosen].mean(2) for k, v in columns.items()}
          for i, (truth, seen, number) in enumerate(self.people):
            if truth not in candidates:  # It cannot come first.
              continue
            for k, score in enumerate(_names(blur)):
              for j, candidate in enumerate(candidates):
                yield {
                  'truth': truth,
                  'truth_explainer': seen,
                  'candidate': candidate,
                  'explainer': explainer,
                  'score': score,
                  'blur': blur,
                  'images': size,
                  'participants': number,
                  'draws': int(chosen.sum()),
                  **{k2: float(v[i, k, j]) for k2, v in means.items()},
                }


def write_rows(rows: Iterator[dict[str, Any]], path: str) -> list[dict]:
  """Writes all rows, and returns those of the truths themselves.

  Args:
    rows: as from `Study.rows`.
    path: of a compressed CSV file.
  """
  truths = []
  with files.replacing(path) as partial, gzip.open(partial, 'wt') as text:
    first = next(rows)
    writer = csv.DictWriter(text, [*first], lineterminator='\n')
    writer.writeheader()
    for row in itertools.chain([first], rows):
      writer.writerow(
        {k: f'{v:.5g}' if isinstance(v, float) else v for k, v in row.items()}
      )
      if row['truth'] == row['candidate']:
        truths.append(row)
  return truths


def _models() -> list[model_specs.Model]:
  if FLAGS.model:
    return model_specs.parse_all(FLAGS.model)
  # The digits of studies/plans/easy_digits.yaml.
  digits.make(FLAGS.data_dir, train_images=4000, decoy_strength=0.7)
  return model_specs.parse_all(recovery_networks.specs(FLAGS.runs_dir))


def main(_):
  """Runs the parts of the study that are missing, and reports."""
  models = _models()
  images = sorted({int(n) for n in FLAGS.images})
  map_decoder, white = labelled_images.recognized(FLAGS.clickme, 'clickme')
  settings = recovery_maps.Settings(
    labelled_images.Dataset(
      FLAGS.clickme,
      map_decoder,
      FLAGS.label_offset,
      white,
      sample=images[-1],
    ),
    tuple(FLAGS.explainers),
    tuple(sorted({int(n) for n in FLAGS.participants})),
    FLAGS.clicks,
    FLAGS.random_twins,
    FLAGS.comparison_size,
    FLAGS.group_by,
    FLAGS.explainer_samples,
  )
  folder = recovery_maps.Folder(FLAGS.output_dir, settings)
  folder.explain_all(models)
  study = Study(folder, images, FLAGS.output_dir)
  truths = write_rows(
    study.rows(), os.path.join(FLAGS.output_dir, 'rows.csv.gz')
  )
  recovery_report.write(
    truths, FLAGS.output_dir, study.candidates, folder.accuracy
  )


def run():
  """Runs the command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
