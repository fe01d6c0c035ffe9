"""Backbones that the host's factory does not have."""

import dataclasses

from official.modeling import hyperparams
from official.vision.configs import backbones


@dataclasses.dataclass
class KerasApplication(hyperparams.Config):
  """A network of `tf_keras.applications`; see `modeling.keras_application`.

  Attributes:
    name: that of the network there: 'VGG16', 'ResNet50V2', 'EfficientNetB0',
      'ConvNeXtTiny', ...
    weights: what training starts from: '' for random weights, 'imagenet' for
      those that Keras downloads, or an .h5 file of the whole network's weights.
      With 1000 classes the classification layer starts from them too.
  """

  name: str = 'ResNet50V2'
  weights: str = ''


def _small_vit() -> backbones.VisionTransformer:
  """A Vision Transformer for small images: 0.5 million weights."""
  return backbones.VisionTransformer(
    hidden_size=96,
    patch_size=8,
    pooler='gap',
    transformer=backbones.Transformer(mlp_dim=384, num_heads=3, num_layers=4),
  )


@dataclasses.dataclass
class Backbone(backbones.Backbone):
  """The host's choice of backbones, and ours.

  Attributes:
    keras_application: a network of `tf_keras.applications`.
    custom_vit: the host's Vision Transformer, of any size.
  """

  keras_application: KerasApplication = dataclasses.field(
    default_factory=KerasApplication
  )
  custom_vit: backbones.VisionTransformer = dataclasses.field(
    default_factory=_small_vit
  )
