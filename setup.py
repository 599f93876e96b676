"""Zeolite's packaging."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
code = (here / "zeolite" / "__init__.py").read_text(encoding="utf-8")

setup(
    name="zeolite",
    version=re.search('__version__ = "(.*)"', code)[1],
    description="A fast, safe client-server database server for ZODB",
    long_description=(here / "README.txt").read_text(encoding="utf-8"),
    long_description_content_type="text/plain",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["zeolite", "zeolite.*"]),
    package_data={
        "zeolite": ["*.xml", "py.typed"],
        "zeolite.as_zeo": ["*.xml"],
        "zeolite.monitor": ["*.html"],
    },
    entry_points={
        "console_scripts": ["zeolite = zeolite.__main__:main"],
        "zodburi.resolvers": ["zeolite = zeolite.uri:resolve"],
    },
    install_requires=["ZODB >= 5.8", "transaction", "ZConfig"],
    extras_require={
        "relstorage": ["RelStorage >= 4.1", "psycopg2-binary"],
        "test": [
            "RelStorage >= 4.1",
            "ZEO >= 6.2",
            "hypothesis",
            "manuel",
            "msgpack",
            "mypy",
            "prometheus-client",
            "psutil",
            "psycopg2-binary",
            "pyramid_zodbconn",
            "pytest",
            "pytest-timeout",
            "ruff",
            "selenium",
            "supervisor",
            "trustme",
            "zc.zlibstorage",
            "zdaemon",
            "zodburi",
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
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Database :: Database Engines/Servers",
    ],
)
