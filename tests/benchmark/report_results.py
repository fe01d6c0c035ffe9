"""Made-up results of the benchmark, in the form of results.json."""

import io
import os

import numpy as np

from official_ext.harmonization.evaluation import scores

LEVELS = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200]
PERCENTS = [*np.logspace(0, 2, 11), 100.0]


def score(
  name, value, ceiling=None, spread=0.02, n=500, n_undefined=0, **details
):
  """A score with an interval, as JSON has it."""
  return scores.Score(
    name=name,
    value=value,
    n=n,
    n_undefined=n_undefined,
    low=value - spread,
    high=value + spread,
    confidence=0.95,
    ceiling=ceiling,
    preprocessing='x / 255',
    details=details,
  ).to_json()


def curve(threshold, /, scale=1.0, **more):
  """An accuracy curve as `accuracy_curves.Curve.to_json` has it."""
  place = np.array([*range(11), 12]) / 10.0
  accuracy = 0.5 + 0.47 * scale / (1.0 + np.exp(-9 * (place - threshold)))
  return {
    'levels': LEVELS,
    'percents': [float(p) for p in PERCENTS],
    'accuracy': [float(a) for a in accuracy],
    'standard_error': [0.02] * len(LEVELS),
    **more,
  }


def experiment(values, warnings=(), ceiling=None, **more):
  """One experiment of one model."""
  return {
    'settings': {},
    'curves': None,
    'table': 'models/x.csv',
    'examples': None,
    'seconds': 1.0,
    'warnings': list(warnings),
    'scores': {
      name: score(name, value, ceiling if name == 'spearman' else None)
      for name, value in values.items()
    },
    **more,
  }


def model(name, **experiments):
  """A model that has been through experiments."""
  return {
    'name': name,
    'settings': {'spec': f'keras_app:{name}', 'files': {}},
    'adapter': {
      'input_size': [224, 224],
      'num_classes': 1000,
      'preprocessing': '224x224 pixels, x / 127.5 - 1',
    },
    'experiments': experiments,
  }


def where_settings(ceiling=None):
  """Settings of an experiment with maps."""
  return {
    'input_path': 'click-me/val/*.tfrecords',
    'map_decoder': 'clickme',
    'label_offset': 0,
    'limit': None,
    'blur': True,
    'files': 18,
    'bytes': 12345,
    'ceiling': ceiling,
    'explainer': 'gradient',
    'comparison_size': 224,
  }


def results(models, twins=(), failures=(), ceiling=None):
  """What goes into results.json."""
  settings = {
    'clickme': where_settings(ceiling),
    'clicktionary': where_settings(),
    'imagenet': {'input_path': 'valid*', 'files': 128},
    'psychophysics': {
      'input_path': 'stimuli',
      'stimuli': 1200,
      'rule': 'split_398',
      'human': 'people.csv',
    },
  }
  titles = {
    'clickme': 'ClickMe: where people look',
    'clicktionary': 'Clicktionary: where people look',
    'imagenet': 'ImageNet: accuracy',
    'psychophysics': 'Psychophysics: how people decide',
  }
  found = [
    name
    for name in ('imagenet', 'clickme', 'clicktionary', 'psychophysics')
    if any(name in m['experiments'] for m in models)
  ]
  return {
    'created': '2026-01-02T03:04:05+00:00',
    'command': 'evaluate --model=...',
    'versions': {'tensorflow': '2.20.0'},
    'limit': None,
    'models': list(models),
    'failures': list(failures),
    'twins': list(twins),
    'experiments': {
      name: {'title': titles[name], 'settings': settings[name]}
      for name in found
    },
    'left_out': {name: f'no --{name}' for name in titles if name not in found},
  }


def write_examples(output_dir, name, seed, size=64, count=3):
  """Writes the pictures of a model, and returns where."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:size, :size] / size
  blob = np.exp(-((x - 0.5) ** 2 + (y - 0.4) ** 2) / 0.05)
  human = np.uint8(255 * blob)[np.newaxis].repeat(count, 0)
  model_map = np.uint8(
    255 * np.clip(blob * rng.random((count, size, size)) * 1.2, 0, 1)
  )
  images = np.uint8(255 * np.stack([x, y, blob], -1))[np.newaxis].repeat(
    count, 0
  )
  buffer = io.BytesIO()
  np.savez(buffer, images=images, human=human, model=model_map)
  path = os.path.join('models', name)
  os.makedirs(os.path.join(output_dir, 'models'), exist_ok=True)
  with open(os.path.join(output_dir, path), 'wb') as f:
    f.write(buffer.getvalue())
  return path
