"""Only what pyproject.toml cannot say: `benchmarks/` travels inside `armor_eval`, clear of site-packages."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["armor_eval*", "armor_model*", "trainer*"]), "armor_eval.benchmarks"],
    package_dir={"armor_eval.benchmarks": "benchmarks"},
    package_data={"": ["**/*"]},
)
