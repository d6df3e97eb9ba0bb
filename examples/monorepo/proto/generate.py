"""Turn `Name: field field` lines into Python classes."""

import sys

print("class Message:")
print("    fields: tuple = ()")
print("    def __init__(self, **values):")
print("        unknown = set(values) - set(self.fields)")
print("        if unknown:")
print("            raise TypeError(f'unknown fields: {sorted(unknown)}')")
print("        self.__dict__.update(dict.fromkeys(self.fields), **values)")
for line in open(sys.argv[1], encoding="utf-8"):
    name, fields = line.split(":")
    print(f"\n\nclass {name}(Message):")
    print(f"    fields = {tuple(fields.split())!r}")
