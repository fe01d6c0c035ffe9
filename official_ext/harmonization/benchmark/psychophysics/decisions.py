# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Turns a network's logits into the answer animal or vehicle.

The fixed rules compare the logits of the classes that are animals with those of
the other classes. The linear probe learns the decision from logits of full
images. Answers are boolean arrays, True for animal.
"""

from collections.abc import Sequence

import numpy as np
from sklearn import linear_model
from sklearn import model_selection
from sklearn import pipeline
from sklearn import preprocessing

from official_ext.harmonization import option_values

# ImageNet's classes are in WordNet's order, in which 0..397 are animals.
IMAGENET_CLASSES = 1000
IMAGENET_ANIMALS = range(398)
RULES = option_values.DECISION_RULES

_FOLDS = 5


def animal_mask(
  classes: int, animals: Sequence[int] | None = None
) -> np.ndarray:
  """Marks the classes of a network that are animals.

  Args:
    classes: number of the network's classes.
    animals: indices of the animal classes, from 0; None for ImageNet's.

  Returns:
    bool (classes,).

  Raises:
    ValueError: the network does not have ImageNet's classes and `animals` is
      None, an index is out of range, or all or none of the classes are animals.
  """
  if animals is None:
    if classes != IMAGENET_CLASSES:
      raise ValueError(
        f"The network has {classes} classes; expected ImageNet's "
        f'{IMAGENET_CLASSES}. List the classes that are animals in '
        'animal_classes, or use the rule readout.'
      )
    animals = IMAGENET_ANIMALS
  outside = [a for a in animals if not 0 <= a < classes]
  if outside:
    raise ValueError(
      f'animal_classes contains {outside}; expected classes of the network, '
      f'0..{classes - 1}.'
    )
  mask = np.zeros(classes, bool)
  mask[list(animals)] = True
  if mask.all() or not mask.any():
    raise ValueError(
      f'animal_classes contains {mask.sum()} of {classes} classes; expected '
      'some, but not all.'
    )
  return mask


def split(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Answers animal if the class with the largest logit is an animal.

  Args:
    logits: (n, classes).
    mask: bool (classes,).

  Returns:
    bool (n,). If logits are equal, the first class counts.
  """
  return mask[np.argmax(logits, axis=1)]


def mean_logit(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Answers animal if the mean logit of the animal classes is the larger one.

  Args:
    logits: (n, classes).
    mask: bool (classes,).

  Returns:
    bool (n,). If the means are equal, the answer is vehicle.
  """
  logits = np.asarray(logits, np.float64)
  return logits[:, mask].mean(axis=1) > logits[:, ~mask].mean(axis=1)


def linear_probe(
  logits: np.ndarray,
  images: np.ndarray,
  animals: np.ndarray,
  full: np.ndarray,
  seed: int = 0,
) -> np.ndarray:
  """Answers by cross-validated logistic regression on the logits.

  Images are split into five folds, stratified by target (or fewer, if a target
  has fewer images). For each fold a regression (scikit-learn, C = 1,
  standardized logits) is trained on the full images of the other folds and
  answers for all levels of the images in the fold, none of which it has seen.

  Args:
    logits: (n, classes) of all stimuli.
    images: (n,) identifiers of the images; equal for all levels of an image.
    animals: bool (n,), whether the image shows an animal.
    full: bool (n,), whether the stimulus is the full image.
    seed: of the split into folds.

  Returns:
    bool (n,).

  Raises:
    ValueError: the full image of a stimulus is missing, or a target has fewer
      than two images.
  """
  missing = sorted({*images.tolist()} - {*images[full].tolist()})
  if missing:
    raise ValueError(
      f'{len(missing)} stimuli have no full image, such as {missing[0]}; '
      'expected full images, from which the rule readout learns. Add '
      f'full_{missing[0]}.png and the others, or use another rule.'
    )
  rows = np.flatnonzero(full)
  folds = min(_FOLDS, *np.bincount(animals[rows], minlength=2))
  if folds < 2:
    raise ValueError(
      'There are fewer than two images of animals or of vehicles; expected '
      'at least two of each for the rule readout. Add some, or use another '
      'rule.'
    )
  answers = np.zeros(len(logits), bool)
  splitter = model_selection.StratifiedKFold(
    folds, shuffle=True, random_state=seed
  )
  for train, test in splitter.split(rows, animals[rows]):
    model = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(C=1.0, max_iter=1000),
    )
    model.fit(logits[rows[train]], animals[rows[train]])
    asked = np.isin(images, images[rows[test]])
    answers[asked] = model.predict(logits[asked])
  return answers
