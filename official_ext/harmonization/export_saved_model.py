r"""Exports a run with the host's exporter, our experiments registered.

  python -m official_ext.harmonization.export_saved_model \
      --experiment=harmonized_resnet_imagenet \
      --config_file=runs/digits/harmonized/params.yaml \
      --checkpoint_path=runs/digits/harmonized --export_dir=exported \
      --input_image_size=64,64
"""

from official.vision.serving import export_saved_model
from official_ext.harmonization import (
    registry_imports)  # pylint: disable=unused-import
from official_ext.harmonization import cli


def run():
  """The console command."""
  cli.run(export_saved_model.main, __name__,
          flags_of=(export_saved_model.__name__,), resumes=False)


if __name__ == '__main__':
  run()
