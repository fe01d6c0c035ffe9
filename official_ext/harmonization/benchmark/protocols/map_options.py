# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Flags of the protocols that compare maps of models with human maps."""

import dataclasses

from official_ext.harmonization import choices
from official_ext.harmonization import cli
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.dataloaders import registry as decoders

# Height and width at which the release compares maps.
RELEASED_SIZE = 224

# Images on which random twins and expensive explainers are measured.
TWIN_IMAGES = 500


@dataclasses.dataclass(frozen=True)
class ClickMeOptions:
  """Flags of ClickMe and Clicktionary."""

  clickme: str = cli.flag('', 'ClickMe records: paths or globs.')
  clicktionary: str = cli.flag('', 'Clicktionary records: paths or globs.')
  map_decoder: str | None = cli.flag(
    None,
    'Format of the records with maps. By default, it is recognized from the '
    'first record.',
    choices=decoders.names,
  )
  clicktionary_map_decoder: str | None = cli.flag(
    None,
    'Format of --clicktionary, if it differs from --map_decoder.',
    choices=decoders.names,
  )
  label_offset: int | None = cli.flag(
    None,
    'Added to the labels of records with maps to give the classes that are '
    'scored, 0..999 for ImageNet. The default is 0, except that '
    'canonical records require the flag: -1 if the labels are 1..1000.',
  )
  clicktionary_label_offset: int | None = cli.flag(
    None,
    'Label offset of --clicktionary, if it differs from --label_offset.',
  )
  raw_image_max: float | None = cli.flag(
    None,
    'Maximum pixel value in formats of raw pixels: 255 or 1. The default is '
    '255, or recognized if --map_decoder is not set.',
  )
  blur: bool = cli.flag(True, 'Blur human maps as the ClickMe release does.')
  map_resize: str | None = cli.flag(
    None,
    'How human maps are resized before the blur: from the few pixels that the '
    'release samples, or from all. The default is antialias for canonical '
    'records, otherwise released.',
    choices=option_values.MAP_RESIZES,
  )
  blur_kernel: str = cli.flag(
    'released',
    'Kernel of --blur; the released one shifts maps by half a cell.',
    choices=option_values.BLUR_KERNELS,
  )
  comparison_size: int = cli.flag(
    RELEASED_SIZE,
    "Height and width at which maps are compared; 0 for each model's input "
    'size.',
    at_least=0,
  )
  ceiling: float | None = cli.flag(
    None,
    'Rank correlation among people, which counts as 1 in --clickme. The '
    "default is 0.65753 for ClickMe's release as downloaded by "
    'data.download_clickme, and 1, which gives raw scores, for other records.',
  )
  clicktionary_ceiling: float = cli.flag(
    1.0, 'Ceiling of --clicktionary; 1 gives raw scores.'
  )
  ceilings: str = cli.flag(
    '',
    'ceilings.json of ceiling, with images.csv next to it: what people reach '
    'on the same images. Adds controlled and controlled_person, the parts of '
    'it that a model reaches.',
    path=True,
  )
  clicktionary_ceilings: str = cli.flag(
    '', 'The same for the images of --clicktionary.', path=True
  )
  explainers: tuple[str, ...] = cli.flag(
    ('gradient', 'smoothgrad_squared'),
    "How a model's map is computed, one or several of "
    f'{", ".join(option_values.EXPLAINERS)}, or package.module.function of a '
    'factory of your own. Models are ranked by the first; each has its own '
    f'section. All but {", ".join(option_values.CHEAP_EXPLAINERS)} run '
    f'on a random {TWIN_IMAGES} images, unless --all is given.',
    aliases=('explainer',),
  )
  explainer_samples: int | None = cli.flag(
    None,
    'Number of samples or steps of '
    f'{", ".join(option_values.SAMPLED_EXPLAINERS)}; by default, that of each.',
    at_least=1,
  )
  faithfulness: int = cli.flag(
    0,
    'Number of images of --clickme, drawn with a fixed seed, on which it is '
    'checked whether maps show what the network uses; 0 for none. Each image '
    'takes about 300 forward passes and 6 maps.',
    at_least=0,
  )
  metrics: str = cli.flag(
    'standard',
    'Further saliency metrics, shown below the main table: standard for AUC, '
    'pointing, shuffled AUC, information gain, NSS, CC, KL and SIM; all adds '
    "the earth mover's distance; none skips them.",
    choices=option_values.SALIENCY_METRICS,
  )
  group_by: str = cli.flag(
    '',
    'Regular expression on the recorded names of images, such as '
    "'(.*)_[0-9]+'. Images with the same match (of its group, if it has one) "
    'belong together, such as frames of a video, and do not count as different '
    'images. Images with equal pixels always belong together.',
  )
  controls: bool = cli.flag(
    True,
    'Measure controls too: rows without a network that a network must beat.',
  )
  random_twins: int = cli.flag(
    3,
    'Number of networks with fresh weights that are measured for each model.',
    at_least=0,
  )
  input_sizes: tuple[str, ...] = cli.flag(
    (),
    'Input sizes, such as 160,224, at which each network is also measured, '
    'if it accepts them. The report shows whether the order of the networks '
    'depends on the input size. Each size costs as much as another network.',
  )
  all: bool = cli.flag(
    False,
    'Measure random twins, and explainers that take more than one gradient, on '
    f'all images instead of a random {TWIN_IMAGES}.',
  )


def explainers_of(options: ClickMeOptions) -> list[str]:
  """Returns the names of --explainers, each once.

  Args:
    options: the flags.

  Raises:
    SettingsError: a name is not known, or no name is given.
  """
  names = list(dict.fromkeys(options.explainers))
  if not names:
    raise protocol.SettingsError(
      '--explainers has no name; expected one or several, such as gradient.'
    )
  for name in names:
    if '.' not in name:  # Otherwise of a user's package.
      try:
        choices.require('--explainers', name, option_values.EXPLAINERS)
      except ValueError as e:
        raise protocol.SettingsError(str(e)) from None
  return names
