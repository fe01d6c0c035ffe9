r"""Exports a run with the host's exporter, our experiments registered.

  python -m official_ext.harmonization.export_saved_model \
      --experiment=harmonized_resnet_imagenet \
      --config_file=runs/digits/harmonized/params.yaml \
      --checkpoint_path=runs/digits/harmonized --export_dir=exported \
      --input_image_size=64,64
"""

from absl import app

from official.vision.serving import export_saved_model
from official_ext.harmonization import (
    registry_imports)  # pylint: disable=unused-import


def run():
  """The console command."""
  app.run(export_saved_model.main)


if __name__ == '__main__':
  run()
