"""Knows what every rule of the library must have; needs no disk."""

from __future__ import annotations

from buildgraph.boxfile import schema
from buildgraph_rules.registry import rule_specs


def test_rules_are_found_by_their_names() -> None:
    specs = rule_specs()
    assert "debian" in specs
    assert all(spec.name == name for name, spec in specs.items())
    assert specs.keys().isdisjoint(schema.BUILT_IN)


def test_every_attribute_has_words_and_no_name_of_another_use() -> None:
    taken = {attribute.name for attribute in schema.COMMON} | set(schema.LATER_TARGET)
    for spec in (*rule_specs().values(), *schema.BUILT_IN.values()):
        names = [attribute.name for attribute in spec.attributes]
        assert len(set(names)) == len(names)
        assert taken.isdisjoint(names)
        assert spec.doc
        for attribute in spec.attributes:
            assert attribute.doc
            assert not attribute.name.startswith("x-")
            assert not (attribute.required and attribute.default is not None)
