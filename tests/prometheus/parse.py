"""OpenMetrics from stdin through the parser of Prometheus's Python client, which is strict; its families as JSON."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.name not in families and family.samples, family.name
    families[family.name] = {"type": family.type, "unit": family.unit, "help": family.documentation}
print(json.dumps(families))
