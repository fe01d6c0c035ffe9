# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

import pathlib

import setuptools

# gin/ and experiments/ are at the root of the repository, where people look for
# them, and are packaged as resources, where the commands find them by name.
_RESOURCES = 'official_ext.harmonization.resources'

package_dir = {'': '.'}
for top in ('gin', 'experiments'):
  for folder in (pathlib.Path(top), *pathlib.Path(top).rglob('*')):
    if folder.is_dir():
      package_dir['.'.join((_RESOURCES, *folder.parts))] = folder.as_posix()

setuptools.setup(
  # Namespace packages too: a forgotten __init__.py must not drop a folder.
  packages=setuptools.find_namespace_packages(
    include=['official_ext', 'official_ext.*'], exclude=['*.__pycache__']
  )
  + [name for name in package_dir if name.startswith(_RESOURCES)],
  package_dir=package_dir,
  package_data={
    'official_ext.harmonization': ['py.typed'],
    'official_ext.harmonization.benchmark.report': ['*.j2'],
    **{
      name: ['*.gin', '*.yaml']
      for name in package_dir
      if name.startswith(_RESOURCES)
    },
  },
  include_package_data=False,
  # Not build/: on a case-insensitive file system that is the file BUILD.
  options={'build': {'build_base': '.cache/build'}},
)
