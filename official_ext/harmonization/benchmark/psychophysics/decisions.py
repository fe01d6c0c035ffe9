"""How a network's logits become an answer: animal or vehicle.

Fixed rules look at the classes that are animals; a read-out learns from whole
images which logits speak for animals. Answers are True for animal.
"""

from collections.abc import Sequence

import numpy as np
from sklearn import linear_model
from sklearn import model_selection
from sklearn import pipeline
from sklearn import preprocessing

# In WordNet's order, ImageNet's classes 0..397 are animals.
IMAGENET_CLASSES = 1000
IMAGENET_ANIMALS = range(398)
RULES = ('split_398', 'mean_logit', 'readout')

_FOLDS = 5


def animal_mask(
  classes: int, animals: Sequence[int] | None = None
) -> np.ndarray:
  """Says which classes of a network are animals.

  Args:
    classes: how many it tells apart.
    animals: their numbers, from 0; None for ImageNet's.

  Returns:
    bool (classes,).

  Raises:
    ValueError: the numbers are missing, no classes, or all or none of them.
  """
  if animals is None:
    if classes != IMAGENET_CLASSES:
      raise ValueError(
        f"The network tells {classes} classes apart, not ImageNet's "
        f'{IMAGENET_CLASSES}: say by animal_classes which of them are '
        'animals, or take the rule readout.'
      )
    animals = IMAGENET_ANIMALS
  outside = [a for a in animals if not 0 <= a < classes]
  if outside:
    raise ValueError(
      f"animal_classes {outside} are not among the network's "
      f'classes 0..{classes - 1}.'
    )
  mask = np.zeros(classes, bool)
  mask[list(animals)] = True
  if mask.all() or not mask.any():
    raise ValueError(
      f'animal_classes names {mask.sum()} of {classes} classes: '
      'some must be animals and some not.'
    )
  return mask


def split(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Answers animal where the class of the greatest logit is one.

  Args:
    logits: (n, classes).
    mask: bool (classes,).

  Returns:
    bool (n,). Of equal logits the first class counts.
  """
  return mask[np.argmax(logits, axis=1)]


def mean_logit(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Answers animal where the animals' logits are greater on average.

  Args:
    logits: (n, classes).
    mask: bool (classes,).

  Returns:
    bool (n,). Equal means answer vehicle.
  """
  logits = np.asarray(logits, np.float64)
  return logits[:, mask].mean(axis=1) > logits[:, ~mask].mean(axis=1)


def readout(
  logits: np.ndarray,
  images: np.ndarray,
  animals: np.ndarray,
  whole: np.ndarray,
  seed: int = 0,
) -> np.ndarray:
  """Answers by logistic regressions that never saw the image they answer for.

  Images are dealt to five folds (or as many as the rarer target has images),
  each with its part of both targets. For every fold a regression
  (scikit-learn's, C = 1, standardized logits) is trained on the whole images
  of the other folds and answers for all levels of its own.

  Args:
    logits: (n, classes), of stimuli.
    images: (n,), what each shows; all levels of an image have one value.
    animals: bool (n,), whether that is an animal.
    whole: bool (n,), whether all of it is shown.
    seed: decides the folds.

  Returns:
    bool (n,).

  Raises:
    ValueError: an image is not there as a whole, or a target has only one.
  """
  missing = sorted({*images.tolist()} - {*images[whole].tolist()})
  if missing:
    raise ValueError(
      f'The rule readout learns from full images, and {len(missing)} images '
      f'have none, such as {missing[0]}: add full_{missing[0]}.png and the '
      'others, or take another rule.'
    )
  rows = np.flatnonzero(whole)
  folds = min(_FOLDS, *np.bincount(animals[rows], minlength=2))
  if folds < 2:
    raise ValueError(
      'The rule readout needs at least two images of animals '
      'and two of vehicles: add some, or take another rule.'
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
