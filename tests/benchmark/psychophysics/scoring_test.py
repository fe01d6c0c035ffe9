# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the psychophysics experiment with prescribed responses."""

# Bazel: size = "large"

import json
import math
import pathlib
import shutil
import tempfile
import unittest

import numpy as np
from PIL import Image
from scipy import stats

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal
from official_ext.harmonization.benchmark.protocols import (
  psychophysics as psychophysics_protocol,
)
from official_ext.harmonization.benchmark.psychophysics import decisions
from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.benchmark.psychophysics import model_responses
from official_ext.harmonization.benchmark.psychophysics import psychometrics
from official_ext.harmonization.benchmark.psychophysics import (
  scoring as psychophysics,
)
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores
from tests.benchmark import experiment

_LEVELS = stimulus_files.LEVELS
_OBSERVER = psychometrics.Logistic(1.0, 5.0, 0.02)


def _probability(function):
  return lambda level: float(function(stimulus_files.percent(level)))


def _digit(stimulus):
  return int(stimulus.image.removeprefix(stimulus.target))


class Case(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.stimuli_folder = str(self.folder / 'stimuli')
    self.rng = np.random.default_rng(0)

  def stimuli(self, images=4, levels=_LEVELS):
    return experiment.write_stimuli(self.stimuli_folder, images, levels)

  def evaluate(self, adapter, **options):
    options.setdefault('resamples', 50)
    return psychophysics.evaluate(adapter, self.stimuli_folder, **options)

  def people(self, stimuli, function=_OBSERVER, participants=5):
    return experiment.write_people(
      self.folder / 'people.csv',
      stimuli,
      _probability(function),
      participants,
      self.rng,
    )

  def table(self, accuracy, error=''):
    path = self.folder / 'accuracy.csv'
    lines = [f'{level},{value},{error}' for level, value in accuracy.items()]
    path.write_text('level,accuracy,standard_error\n' + '\n'.join(lines))
    return str(path)


class CurveTest(Case):
  def test_counted_by_hand(self):
    stimuli = self.stimuli(2, (0, 50, 200))
    # Correct: one animal of two at 0; all but one vehicle at 50; all at 200.
    wrong = {('animal0', 0), ('vehicle0', 0), ('vehicle1', 0), ('vehicle1', 50)}
    right = [(s.image, s.level) not in wrong for s in stimuli]
    result = self.evaluate(experiment.FakeAdapter(stimuli, right))
    curve = result.curves['model']
    self.assertEqual(list(curve.levels), [0, 50, 200])
    np.testing.assert_allclose(curve.percents, [1.0, 10.0, 100.0])
    np.testing.assert_allclose(curve.accuracy, [0.25, 0.75, 1.0])
    np.testing.assert_allclose(curve.n, [4, 4, 4])
    np.testing.assert_allclose(
      curve.standard_error, np.sqrt([0.25 * 0.75 / 4, 0.75 * 0.25 / 4, 0])
    )
    z = stats.norm.ppf
    np.testing.assert_allclose(
      curve.d_prime,
      [
        z(1.5 / 3) - z(2.5 / 3),
        z(2.5 / 3) - z(1.5 / 3),
        z(2.5 / 3) - z(0.5 / 3),
      ],
    )
    self.assertTrue(math.isnan(curve.threshold))
    self.assertIn('fewer than 3', curve.logistic.problem)
    accuracy, full = result.scores
    self.assertEqual(accuracy.name, 'psychophysics_accuracy')
    self.assertAlmostEqual(accuracy.value, 2 / 3)
    self.assertEqual(accuracy.n, 4)
    self.assertEqual(accuracy.preprocessing, 'none; stimuli by resize')
    self.assertEqual(full.name, 'psychophysics_full_accuracy')
    self.assertEqual((full.value, full.n), (1.0, 4))
    # Wilson's interval of 4 of 4; guesses would be right with 1/2 ** 4.
    self.assertAlmostEqual(full.low, 4 / (4 + 1.959964**2), 6)
    self.assertAlmostEqual(full.details['chance'], 0.5)
    self.assertAlmostEqual(full.details['chance_p_value'], 1 / 16)
    self.assertIn('1.000 on 4 images', result.warnings[0])

  def test_people_counted_by_hand(self):
    stimuli = self.stimuli(1, (0, 200))
    rows = [
      ('a', 0, 'animal0', 'animal', 'animal'),
      ('a', 0, 'vehicle0', 'vehicle', 'animal'),
      ('b', 0, 'animal0', 'animal', 'animal'),
      ('a', 200, 'animal0', 'animal', 'animal'),
      ('b', 200, 'vehicle0', 'vehicle', 'vehicle'),
      ('c', 200, 'vehicle0', 'vehicle', 'animal'),
    ]
    path = str(self.folder / 'people.csv')
    scores.write_rows(
      path,
      [
        human_trials.row(
          p, i, f'{level}_{image}.png', target, answer, str(level)
        )
        for i, (p, level, image, target, answer) in enumerate(rows)
      ],
    )
    result = self.evaluate(
      experiment.FakeAdapter(stimuli, [True] * 4), human=path
    )
    curve = result.curves['human']
    # Participants have equal weight, whatever their number of trials.
    np.testing.assert_allclose(curve.accuracy, [0.75, 2 / 3])
    np.testing.assert_allclose(
      curve.standard_error,
      [
        np.std([0.5, 1.0], ddof=1) / math.sqrt(2),
        np.std([1.0, 1.0, 0.0], ddof=1) / math.sqrt(3),
      ],
    )
    np.testing.assert_allclose(curve.n, [3, 3])
    l2 = next(s for s in result.scores if s.name == 'psychophysics_l2')
    self.assertAlmostEqual(l2.value, math.hypot(0.25, 1 / 3))
    self.assertEqual(l2.details['n_participants'], 3)
    self.assertEqual(l2.details['n_images_of_both'], 2)

  def test_trials_go_through_a_file_and_back(self):
    stimuli = self.stimuli(3)
    right = experiment.draws(stimuli, lambda _: 0.7, self.rng)
    result = self.evaluate(experiment.FakeAdapter(stimuli, right, 'net'))
    self.assertEqual(tuple(result.trials[0]), human_trials.COLUMNS)
    path = str(self.folder / 'net.csv')
    scores.write_rows(path, result.trials)
    found = {
      (t.image, t.level): t.response == t.target
      for t in human_trials.read(path).trials
    }
    self.assertEqual(
      found, {(s.image, s.level): r for s, r in zip(stimuli, right)}
    )
    # People whose responses are the network's agree with it.
    again = self.evaluate(experiment.FakeAdapter(stimuli, right), human=path)
    self.assertEqual(again.scores[1].value, 0.0)

  def test_threshold_is_recovered(self):
    stimuli = self.stimuli(150)
    adapter = experiment.FakeAdapter(
      stimuli, experiment.draws(stimuli, _probability(_OBSERVER), self.rng)
    )
    curve = self.evaluate(adapter, batch_size=1000, resamples=30).curves[
      'model'
    ]
    low, high = curve.threshold_interval
    self.assertLess(low, 10.0)
    self.assertGreater(high, 10.0)
    self.assertLess(high / low, 1.4)
    self.assertLess(abs(curve.threshold - 10.0), 1.5)


class AlignmentTest(Case):
  def test_perfect_match_and_dependence_on_the_model(self):
    stimuli = self.stimuli(20)
    people = self.people(stimuli, participants=30)
    human = human_trials.read(people)
    accuracy = [
      np.mean(
        [t.response == t.target for t in human.trials if t.level == level]
      )
      for level in _LEVELS
    ]
    # A network with people's accuracy at each level, up to half an image.
    place = {level: i for i, level in enumerate(_LEVELS)}
    close = experiment.FakeAdapter(
      stimuli,
      [_digit(s) < round(20 * accuracy[place[s.level]]) for s in stimuli],
      'close',
    )
    perfect = experiment.FakeAdapter(stimuli, [True] * len(stimuli), 'perfect')
    chance = experiment.FakeAdapter(
      stimuli, [s.target == 'animal' for s in stimuli], 'chance'
    )
    values = {}
    for adapter in (close, perfect, chance):
      result = self.evaluate(adapter, human=people, batch_size=100)
      values[adapter.name] = {s.name: s for s in result.scores}
      json.dumps(result.to_json(), allow_nan=False)
      self.assertLess(abs(result.curves['human'].threshold - 10.0), 1.0)
      curve = result.curves['model'].accuracy
      self.assertAlmostEqual(
        values[adapter.name]['psychophysics_l2'].value,
        np.linalg.norm(curve - result.curves['human'].accuracy),
      )
    l2 = {name: v['psychophysics_l2'] for name, v in values.items()}
    self.assertLess(l2['close'].value, 0.1)
    self.assertAlmostEqual(
      l2['perfect'].value, np.linalg.norm(1 - np.array(accuracy)), 6
    )
    self.assertAlmostEqual(
      l2['chance'].value, np.linalg.norm(0.5 - np.array(accuracy)), 6
    )
    self.assertGreater(l2['chance'].value, 5 * l2['close'].value)
    shape = values['close']['psychophysics_negative_log_mse']
    # Half an image of 20 would be -ln(.025^2) = 7.4 for curves of one height.
    self.assertGreater(shape.value, 5.0)
    # The shape of a constant curve is undefined, not 0.
    flat = values['perfect']['psychophysics_negative_log_mse']
    self.assertTrue(math.isnan(flat.value))
    self.assertIsNone(flat.to_json()['value'])

  def test_interval_covers_people_and_images(self):
    stimuli = self.stimuli(10)
    adapter = experiment.FakeAdapter(
      stimuli, experiment.draws(stimuli, lambda _: 0.8, self.rng)
    )
    l2 = {}
    accuracy = {level: _probability(_OBSERVER)(level) for level in _LEVELS}
    for name, human in (
      ('trials', lambda: self.people(stimuli)),
      ('known', lambda: self.table(accuracy, '.1')),
      ('fixed', lambda: self.table(accuracy)),
    ):
      l2[name] = self.evaluate(adapter, human=human(), resamples=200).scores[1]
      self.assertLess(l2[name].low, l2[name].high)
    width = {name: s.high - s.low for name, s in l2.items()}
    self.assertGreater(width['known'], width['fixed'])
    self.assertEqual(
      l2['trials'].details['bootstrap'], 'images and participants'
    )
    # The interval of the network's accuracy does not resample participants.
    self.assertEqual(
      self.evaluate(adapter, human=self.people(stimuli))
      .scores[0]
      .details['bootstrap'],
      'images',
    )
    self.assertIn('fixed', l2['fixed'].details['bootstrap'])
    self.assertGreater(l2['trials'].details['people']['value'], 0.0)
    self.assertIsNone(l2['known'].details['people'])

  def test_trials_are_compared_with_people(self):
    stimuli = self.stimuli(10)
    people = self.people(stimuli, participants=4)
    by_who = {}
    for t in human_trials.read(people).trials:
      by_who.setdefault(t.participant, {})[t.image, t.level] = (
        t.response == t.target
      )
    first = by_who.pop('p0')
    # The network answers as one of the participants does.
    adapter = experiment.FakeAdapter(
      stimuli, [first[s.image, s.level] for s in stimuli]
    )
    found = {s.name: s for s in self.evaluate(adapter, human=people).scores}
    kappa = found['psychophysics_error_consistency']
    self.assertEqual([*kappa.details['participants']], ['p0', 'p1', 'p2', 'p3'])
    rest = kappa.details['participants']['p0']
    self.assertAlmostEqual(kappa.value, (1 + 3 * rest) / 4)
    self.assertAlmostEqual(
      kappa.details['people']['value'],
      np.mean([*kappa.details['participants'].values()]),
    )
    self.assertAlmostEqual(
      kappa.details['difference']['value'],
      kappa.value - kappa.details['people']['value'],
    )
    observed = found['psychophysics_observed_consistency']
    agreed = [
      np.mean([first[key] == answers[key] for key in first])
      for answers in by_who.values()
    ]
    self.assertAlmostEqual(observed.value, np.mean([1.0, *agreed]))
    self.assertAlmostEqual(
      observed.details['participants']['p0'], np.mean(agreed)
    )

  def test_threshold_against_people(self):
    stimuli = self.stimuli(60)
    people = self.people(stimuli, participants=8)
    later = psychometrics.Logistic(1.5, 5.0, 0.02)
    for function, expected in ((_OBSERVER, 0.0), (later, 0.5)):
      adapter = experiment.FakeAdapter(
        stimuli, experiment.draws(stimuli, _probability(function), self.rng)
      )
      result = self.evaluate(
        adapter, human=people, batch_size=1000, resamples=200
      )
      (ratio,) = [
        s
        for s in result.scores
        if s.name == 'psychophysics_log_threshold_ratio'
      ]
      self.assertAlmostEqual(ratio.value, expected, delta=0.12)
      self.assertLess(ratio.low, ratio.value)
      self.assertGreater(ratio.high, ratio.value)
      self.assertEqual(ratio.low < 0 < ratio.high, expected == 0)
      self.assertEqual(ratio.details['p'] < 0.05, expected > 0)
      low, high = result.curves['human'].threshold_interval
      self.assertTrue(low < 10.0 < high)

  def test_chance_is_tested_at_the_full_image(self):
    stimuli = self.stimuli(20)
    # Half right at all levels but the full image: this is not at chance.
    right = [s.level == 200 or _digit(s) < 10 for s in stimuli]
    people = self.people(stimuli, participants=5)
    result = self.evaluate(
      experiment.FakeAdapter(stimuli, right), human=people, batch_size=100
    )
    (full,) = [s for s in result.scores if 'full' in s.name]
    self.assertEqual((full.value, full.n, result.warnings), (1.0, 40, []))
    self.assertAlmostEqual(full.details['chance_p_value'], 0.5**40)
    human = full.details['people']
    self.assertAlmostEqual(human['value'], result.curves['human'].accuracy[-1])
    self.assertLess(human['p'], 0.01)
    # Without the full image, 100 % is tested; without that, nothing is.
    blind = experiment.FakeAdapter(
      stimuli, [s.level < 100 or _digit(s) < 10 for s in stimuli]
    )
    kept = [s for s in stimuli if s.level < 200]
    for s in stimuli:
      if s not in kept:
        (pathlib.Path(self.stimuli_folder) / s.file).unlink()
    result = self.evaluate(blind)
    self.assertEqual(result.scores[1].details['level'], 100)
    self.assertEqual(result.scores[1].value, 0.5)
    self.assertIn('not significantly above guessing', result.warnings[0])
    self.assertEqual(len(self.evaluate(blind, levels=(0, 50)).scores), 1)

  def test_interval_of_the_accuracy_is_that_of_a_binomial(self):
    stimuli = self.stimuli(200, (0, 200))
    # Both levels of an image are correct or wrong together: clusters of two.
    right = [_digit(s) < 120 for s in stimuli]
    found = self.evaluate(
      experiment.FakeAdapter(stimuli, right), batch_size=1000, resamples=2000
    ).scores[0]
    error = math.sqrt(0.6 * 0.4 / 400)
    self.assertAlmostEqual(found.value, 0.6)
    self.assertAlmostEqual(found.high - found.low, 2 * 1.96 * error, 2)
    self.assertGreater(found.high - found.low, 2 * 1.96 * error * 0.9)

  def test_batches_do_not_change_the_score(self):
    stimuli = self.stimuli()
    people = self.people(stimuli)
    right = experiment.draws(stimuli, lambda _: 0.7, self.rng)
    results = []
    for size in (1, 7, 1000):
      adapter = experiment.FakeAdapter(stimuli, right)
      results.append(
        self.evaluate(adapter, human=people, batch_size=size).to_json()
      )
      self.assertLessEqual(max(adapter.batches), size)
      self.assertEqual(sum(adapter.batches), len(stimuli))
    self.assertEqual(results[0], results[1])
    self.assertEqual(results[0], results[2])

  def test_a_resumed_run_equals_an_uninterrupted_one(self):
    stimuli = self.stimuli(10)
    right = experiment.draws(stimuli, lambda _: 0.7, self.rng)
    for rule in ('split_398', 'readout'):
      whole = self.evaluate(experiment.FakeAdapter(stimuli, right), rule=rule)
      path = str(self.folder / f'{rule}.jsonl')
      killed = experiment.FakeAdapter(stimuli, right)
      answer = killed.logits

      def logits(inputs, killed=killed, answer=answer):
        if len(killed.batches) == 2:
          raise KeyboardInterrupt
        return answer(inputs)

      killed.logits = logits
      with self.assertRaises(KeyboardInterrupt):
        self.evaluate(
          killed, rule=rule, batch_size=9, journal=journal.Journal(path, {})
        )
      adapter = experiment.FakeAdapter(stimuli, right)
      again = self.evaluate(
        adapter, rule=rule, batch_size=9, journal=journal.Journal(path, {})
      )
      self.assertEqual(sum(adapter.batches), len(stimuli) - 18)
      self.assertEqual(again.to_json(), whole.to_json())
      self.assertEqual(again.trials, whole.trials)

  def test_identity_is_of_stimuli_answers_and_options(self):
    stimuli = self.stimuli()
    people = self.people(stimuli)

    def of(folder=self.stimuli_folder, human=people, batch_size=3, **options):
      return psychophysics_protocol.PsychophysicsProtocol(
        folder, batch_size=batch_size, human=human, **options
      ).identity(identity.Digests())

    before = of(rule='split_398')
    moved = shutil.copytree(self.stimuli_folder, self.folder / 'moved')
    copy = str(shutil.copy(people, self.folder / 'copy.csv'))
    for same in (dict(batch_size=1), dict(folder=str(moved)), dict(human=copy)):
      self.assertEqual(
        identity.differences(before, of(rule='split_398', **same)), ''
      )
    self.assertIn('rule', identity.differences(before, of(rule='mean_logit')))
    with open(people, 'a') as f:
      f.write('\n')
    self.assertIn(
      'data.human_trials', identity.differences(before, of(rule='split_398'))
    )
    # Two files exchange their names, so that the bytes are the same.
    first, second = (moved / s.file for s in stimuli[:2])
    first.rename(moved / 'x')
    second.rename(first)
    (moved / 'x').rename(second)
    self.assertIn(
      'data.stimuli', identity.differences(of(), of(folder=str(moved)))
    )


class RefusalTest(Case):
  def test_missing_levels_are_named(self):
    stimuli = self.stimuli(1, (0, 10, 200))
    adapter = experiment.FakeAdapter(stimuli, [True] * len(stimuli))
    both = self.table({0: 0.5, 10: 0.6, 100: 0.9, 200: 1.0})
    with self.assertRaisesRegex(ValueError, 'Levels 100 .*the stimuli'):
      self.evaluate(adapter, human=both)
    few = self.table({0: 0.5, 10: 0.6})
    with self.assertRaisesRegex(ValueError, 'Levels full .*the human data'):
      self.evaluate(adapter, human=few)
    with self.assertRaisesRegex(ValueError, 'Levels 20 .*the stimuli'):
      self.evaluate(adapter, human=few, levels=(0, 20))
    result = self.evaluate(adapter, human=few, levels=(10, 0))
    self.assertEqual(list(result.curves['human'].levels), [0, 10])
    self.assertAlmostEqual(result.scores[1].value, math.hypot(0.5, 0.4))
    self.assertEqual(len(result.trials), 4)
    # Levels that are not compared are ignored.
    self.assertEqual(adapter.batches[-1], 4)

  def test_people_and_stimuli_must_agree_on_what_is_shown(self):
    stimuli = self.stimuli(1)
    path = self.folder / 'people.csv'
    path.write_text(
      ','.join(human_trials.COLUMNS)
      + '\na,1,1,,animal,vehicle,0,0_animal0.png\n'
    )
    with self.assertRaisesRegex(ValueError, 'animal0'):
      self.evaluate(
        experiment.FakeAdapter(stimuli, [True] * len(stimuli)),
        human=str(path),
        levels=[0],
      )

  def test_only_one_target(self):
    stimuli = self.stimuli(1)
    (pathlib.Path(self.stimuli_folder) / 'vehicle/30_vehicle0.png').unlink()
    with self.assertRaisesRegex(ValueError, 'level 30 show animals'):
      self.evaluate(experiment.FakeAdapter(stimuli, [True] * len(stimuli)))

  def test_logits_that_are_not_finite(self):
    stimuli = self.stimuli(1)
    adapter = experiment.FakeAdapter(stimuli, [True] * len(stimuli))
    logits = adapter.logits
    adapter.logits = lambda x: np.where(x[:, 3, 2, 1:2] == 3, np.nan, logits(x))
    with self.assertRaisesRegex(ValueError, '30_animal0.png'):
      self.evaluate(adapter)

  def test_unknown_rule_and_framing(self):
    with self.assertRaisesRegex(ValueError, 'rule'):
      self.evaluate(None, rule='split')
    with self.assertRaisesRegex(ValueError, 'framing'):
      self.evaluate(None, framing='crop')


class RuleTest(Case):
  def test_classes_of_another_network(self):
    stimuli = self.stimuli()
    right = experiment.draws(stimuli, lambda _: 0.7, self.rng)
    adapter = experiment.FakeAdapter(
      stimuli, right, classes=10, animal_class=7, other_class=2
    )
    with self.assertRaisesRegex(ValueError, '10 classes.*animal_classes'):
      self.evaluate(adapter)
    for rule in ('split_398', 'mean_logit'):
      result = self.evaluate(adapter, rule=rule, animal_classes=[7, 3])
      self.assertAlmostEqual(result.scores[0].value, np.mean(right))
      self.assertEqual(result.settings['animal_classes'], [7, 3])
    reversed_ = self.evaluate(adapter, animal_classes=[2])
    self.assertAlmostEqual(reversed_.scores[0].value, 1 - np.mean(right))
    for animals, word in (([10], '10'), ([], '0 of 10'), (range(10), '10 of')):
      with self.assertRaisesRegex(ValueError, word):
        self.evaluate(adapter, animal_classes=animals)

  def test_boundary_of_imagenets_animals(self):
    mask = decisions.animal_mask(1000)
    logits = np.eye(1000)[[0, 397, 398, 999]]
    self.assertEqual(
      decisions.split(logits, mask).tolist(), [True, True, False, False]
    )

  def test_rules_differ(self):
    logits = np.zeros((1, 1000))
    logits[0, 5] = 10.0  # One animal is sure, all vehicles are a bit likelier.
    logits[0, 398:] = 1.0
    mask = decisions.animal_mask(1000)
    self.assertTrue(decisions.split(logits, mask)[0])
    self.assertFalse(decisions.mean_logit(logits, mask)[0])

  def test_linear_probe_learns_and_generalizes(self):
    stimuli = self.stimuli(10)
    # Class 1 means animal and 2 means vehicle; only the images show this.
    adapter = experiment.FakeAdapter(
      stimuli,
      [s.level >= 50 for s in stimuli],
      classes=3,
      animal_class=1,
      other_class=2,
    )
    curve = self.evaluate(adapter, rule='readout').curves['model']
    np.testing.assert_allclose(
      curve.accuracy, [level >= 50 for level in _LEVELS]
    )

  def test_linear_probe_never_sees_the_image_it_answers_for(self):
    # Logits that identify the image carry no information about other images.
    images = np.repeat(np.arange(20), 2)
    whole = np.tile([False, True], 20)
    animals = images % 2 == 0
    logits = np.eye(20)[images] * 50.0
    answers = decisions.linear_probe(logits, images, animals, whole)
    self.assertLess(np.mean(answers == animals), 0.8)

  def test_linear_probe_refusals(self):
    stimuli = self.stimuli(3, (0, 200))
    adapter = experiment.FakeAdapter(stimuli, [True] * len(stimuli))
    with self.assertRaisesRegex(ValueError, 'animal_classes is .1.; .*readout'):
      self.evaluate(adapter, rule='readout', animal_classes=[1])
    (pathlib.Path(self.stimuli_folder) / 'animal/full_animal1.png').unlink()
    with self.assertRaisesRegex(ValueError, 'full_animal1.png'):
      self.evaluate(adapter, rule='readout', levels=[0])
    with self.assertRaisesRegex(ValueError, 'at least two'):
      decisions.linear_probe(
        np.eye(2), np.arange(2), np.array([True, False]), np.array([True, True])
      )


class ImageTest(Case):
  def write(self, pixels):
    Image.fromarray(np.uint8(pixels)).save(self.folder / 'a.png')

  def test_grey_becomes_three_channels_and_sizes_fit(self):
    self.write(np.arange(100).reshape(10, 10))
    found = model_responses.read_image(str(self.folder), 'a.png', (10, 10))
    self.assertEqual(found.dtype, np.float32)
    np.testing.assert_array_equal(
      found, np.arange(100).reshape(10, 10, 1).repeat(3, 2)
    )
    crop = model_responses.read_image(
      str(self.folder), 'a.png', (4, 6), 'center_crop'
    )
    np.testing.assert_array_equal(
      crop[..., 0], np.arange(100).reshape(10, 10)[3:7, 2:8]
    )
    with self.assertRaisesRegex(ValueError, '10 x 10; .*12 x 6'):
      model_responses.read_image(
        str(self.folder), 'a.png', (12, 6), 'center_crop'
      )

  def test_broken_picture_is_named(self):
    (self.folder / 'a.png').write_bytes(b'no picture')
    with self.assertRaisesRegex(ValueError, 'a.png'):
      model_responses.read_image(str(self.folder), 'a.png', (4, 4))


if __name__ == '__main__':
  unittest.main()
