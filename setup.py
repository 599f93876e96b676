"""Zeolite's packaging."""

import pathlib

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent

setup(
    name="zeolite",
    version="0.1.dev0",
    description="A fast, safe client-server database server for ZODB",
    long_description=(here / "README.txt").read_text(encoding="utf-8"),
    long_description_content_type="text/plain",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["zeolite", "zeolite.*"]),
    package_data={"zeolite": ["*.xml"]},
    install_requires=["ZODB >= 5.8", "transaction", "ZConfig"],
    extras_require={
        "relstorage": ["RelStorage >= 4.1", "psycopg2-binary"],
        "test": [
            "RelStorage >= 4.1",
            "ZEO >= 6.2",
            "hypothesis",
            "manuel",
            "msgpack",
            "psutil",
            "psycopg2-binary",
            "pytest",
            "pytest-timeout",
            "ruff",
            "trustme",
            "zc.zlibstorage",
            "zope.testing",
        ],
        "bench": [
            "ZEO >= 6.2",
            "psutil",
            "pyperf == 2.0.0",
            "six",
            "trustme",
            "zodbshootout == 0.8",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: ZODB",
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Database :: Database Engines/Servers",
    ],
)
