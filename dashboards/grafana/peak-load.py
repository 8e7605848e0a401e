#!/usr/bin/env python3
"""Writes the dashboard *Peak load*, the one-look page: `dashboards/grafana/peak-load.py > dashboards/grafana/peak-load.json`.

Panels are listed from top to bottom as (title, unit, description, [(query, legend)], options). SEL stands for the selector of lane
and instance. `dashboards/check` fails if the JSON is not what this script writes, or a query finds nothing.
"""

import json
import sys

SEL = 'lane=~"$lane", instance=~"$instance"'
RUNBOOKS = "deploy/runbooks/Switchboard%s.md"


def rate(name, by="", extra=""):
    """Per second, summed over instances, by the labels given."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({name}{{{SEL}{extra}}}[$__rate_interval]))"


def now(name, function="sum", by="", extra=""):
    grouping = f" by ({by})" if by else ""
    return f"{function}{grouping} ({name}{{{SEL}{extra}}})"


def quantile(q, name, by="", extra=""):
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({name}_bucket{{{SEL}{extra}}}[$__rate_interval])))"


def stat(title, unit, description, query, warn=None, bad=None, runbook=None):
    return dict(type="stat", title=title, unit=unit, description=description, queries=[(query, "")], width=3, height=4,
                warn=warn, bad=bad, runbook=runbook)


def graph(title, unit, description, queries, width=12, warn=None, bad=None, runbook=None, stack=False, log=False):
    return dict(type="timeseries", title=title, unit=unit, description=description, queries=queries, width=width, height=8,
                warn=warn, bad=bad, runbook=runbook, stack=stack, log=log)


ROWS = [
    ("At a glance", [
        stat("Accepted", "ops", "Sends the nodes took and handed to the log, per second.", rate("switchboard_accepted_total")),
        stat("Logged", "ops", "Sends the log has confirmed (`sent`), per second. Less than accepted for long: the log is in trouble.",
             rate("switchboard_logged_total"), runbook="SendsRefusedByLog"),
        stat("Delivered", "ops", "Events clients have acked, per second: one message counts once for each device that got it.",
             rate("switchboard_delivered_total"), runbook="DeliveryLag"),
        stat("Stored", "ops", "Event rows written to the history, per second.", rate("switchboard_stored_total"),
             runbook="PersistenceLag"),
        stat("Connections", "short", "Open client connections.", now("switchboard_connections")),
        stat("p99 to the addressee", "s", "99 of 100 messages are on the addressee's socket within this time after the sender's frame arrived.",
             quantile(0.99, "switchboard_stage_seconds", extra=', stage="pushed"'), 0.25, 1, "DeliverySlow"),
        stat("Worst lag", "s", "Age of the oldest record that delivery or persistence has not done.",
             now("switchboard_partition_lag_seconds", "max"), 5, 10, "DeliveryLag"),
        stat("Refusals", "ops", "Frames and requests answered with an error, per second, clients' own mistakes included.",
             rate("switchboard_refusals_total"), 10, 100, "RefusalsHigh"),
    ]),
    ("The way of a message", [
        graph("Messages per second", "ops",
              "The pipeline from left to right: accepted → logged → folded → pushed → delivered, and stored. Pushed and delivered count once per device.",
              [(rate("switchboard_accepted_total"), "accepted"), (rate("switchboard_logged_total"), "logged"),
               (rate("switchboard_folded_total", extra=', group="delivery"'), "folded"),
               (rate("switchboard_pushed_total"), "pushed"), (rate("switchboard_delivered_total"), "delivered"),
               (rate("switchboard_stored_total"), "stored")], runbook="SendsRefusedByLog"),
        graph("Not logged", "ops", "Sends the log refused (`unavailable`: they will not appear) or said nothing about (`unknown`: they may).",
              [(rate("switchboard_produce_refused_total"), "refused"), (rate("switchboard_produce_unknown_total"), "unknown")],
              bad=1, runbook="SendsRefusedByLog"),
        graph("p50 by stage", "s", "Half of the messages reach the stage within this time after the sender's frame arrived. The steps add up.",
              [(quantile(0.5, "switchboard_stage_seconds", "stage"), "{{stage}}")], runbook="DeliverySlow", log=True),
        graph("p99 by stage", "s", "99 of 100 messages reach the stage within this time. The first stage that is high is the cause. `acked` includes the client and its ack interval (300 ms).",
              [(quantile(0.99, "switchboard_stage_seconds", "stage"), "{{stage}}")], warn=0.25, bad=1, runbook="DeliverySlow", log=True),
    ]),
    ("Lag and owners", [
        graph("Lag in records", "short", "Records between the group's place and the partition's end, by group and partition.",
              [(now("switchboard_partition_lag_records", "max", "group, partition"), "{{group}} {{partition}}")],
              runbook="DeliveryLag"),
        graph("Lag in seconds", "s", "Age of the oldest record the group has not done, by group and partition.",
              [(now("switchboard_partition_lag_seconds", "max", "group, partition"), "{{group}} {{partition}}")],
              warn=5, bad=10, runbook="PersistenceLag"),
        graph("Partitions owned", "short", "By group and instance. A take-over shows as a step from one instance to another.",
              [(now("switchboard_partition_owned", "sum", "group, instance"), "{{group}} {{instance}}")],
              runbook="PartitionWithoutOwner", stack=True),
        graph("Refused for a lower generation", "ops", "What came from, or named, an owner that is no longer one. A burst at a take-over is normal.",
              [(rate("switchboard_stale_generation_refused_total", "kind"), "{{kind}}")], bad=1, runbook="StaleGenerations"),
    ]),
    ("The edge", [
        graph("Connections", "short", "Open client connections by transport.", [(now("switchboard_connections", "sum", "transport"), "{{transport}}")],
              8, stack=True, runbook="FileDescriptorsHigh"),
        graph("Refusals by code", "ops", "Frames and requests answered with an error. rate_limited, overloaded, degraded, closing are ours; the others are clients' mistakes or the log's.",
              [(rate("switchboard_refusals_total", "code"), "{{code}}")], 8, runbook="RefusalsHigh", stack=True),
        graph("Closes and failed connects", "ops", "Connections closed, by code, and connects that failed, by outcome.",
              [(rate("switchboard_closes_total", "code"), "closed {{code}}"),
               (rate("switchboard_handshakes_total", "outcome", ', outcome!="ok"'), "connect {{outcome}}")], 8,
              runbook="HandshakesFail", stack=True),
    ]),
    ("What is full", [
        graph("Records without report", "short", "Records handed to the log's producer that wait for their report.",
              [(now("switchboard_produce_in_flight", "sum", "instance"), "{{instance}}")], 8, warn=32768, bad=60000, runbook="SendsRefusedByLog"),
        graph("Link queues and outbound bytes", "short", "Items that wait in link queues (bound: 8,192 a link), by side.",
              [(now("switchboard_link_queue_items", "max", "side, instance"), "{{side}} {{instance}}")], 8, warn=4096, bad=8000,
              runbook="LinkFlapping"),
        graph("Workers' memory for conversations", "percentunit", "Share of the budget in use. At 100 % a worker stops reading.",
              [(f"switchboard_resident_bytes{{{SEL}}} / switchboard_worker_bytes_budget{{{SEL}}}", "{{instance}}")], 8, warn=0.6, bad=0.8,
              runbook="WorkerMemoryHigh"),
    ]),
    ("Log and store", [
        graph("Log: append p50 and p99", "s", "From handing a record to the producer to its report.",
              [(quantile(0.5, "switchboard_log_append_seconds"), "p50"), (quantile(0.99, "switchboard_log_append_seconds"), "p99")], 8,
              warn=0.1, bad=1, runbook="SendsRefusedByLog", log=True),
        graph("Store: p99 by operation", "s", "99 of 100 operations are done within this time.",
              [(quantile(0.99, "switchboard_store_seconds", "op"), "{{op}}")], 8, warn=0.25, bad=1, runbook="StoreErrors", log=True),
        graph("Trouble", "short", "Store errors, dead letters and repeats per second; 1 while something is paused.",
              [(rate("switchboard_store_errors_total", "op"), "store error {{op}}"),
               (rate("switchboard_dead_letters_total", "reason"), "dead letter {{reason}}"),
               (rate("switchboard_repeats_dropped_total", "group"), "repeat dropped ({{group}})"),
               (now("switchboard_persistence_paused", "max", "instance"), "persistence paused {{instance}}"),
               (now("switchboard_worker_paused", "max", "instance"), "worker paused {{instance}}")], 8, runbook="StoreErrors"),
    ]),
    ("Desk and processes", [
        graph("Desk", "short", "Conversations in line and with an agent.",
              [(now("switchboard_desk_waiting"), "waiting"), (now("switchboard_desk_assigned"), "assigned")], 8, runbook="CustomersWait"),
        graph("CPU", "short", "Cores used by each process.",
              [('rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval])', "{{instance}}")], 8, runbook="DeliverySlow"),
        graph("Memory", "bytes", "Resident memory of each process.",
              [('process_resident_memory_bytes{instance=~"$instance"}', "{{instance}}")], 8, runbook="WorkerMemoryHigh"),
    ]),
]


def thresholds(panel):
    steps = [{"color": "green", "value": None}]
    if panel["warn"] is not None:
        steps.append({"color": "orange", "value": panel["warn"]})
    if panel["bad"] is not None:
        steps.append({"color": "red", "value": panel["bad"]})
    return {"mode": "absolute", "steps": steps}


def custom(panel):
    shown = panel["warn"] is not None or panel["bad"] is not None
    return {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 10 if panel["stack"] else 0, "showPoints": "never", "spanNulls": False,
        "stacking": {"mode": "normal" if panel["stack"] else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if panel["log"] else {"type": "linear"},
        "thresholdsStyle": {"mode": "line" if shown else "off"},
    }


def render(panel, number, x, y):
    source = {"type": "prometheus", "uid": "${datasource}"}
    defaults = {"unit": panel["unit"], "thresholds": thresholds(panel), "color": {"mode": "palette-classic"}}
    if not panel.get("log"):
        defaults["min"] = 0
    if panel["type"] == "stat":
        defaults["color"] = {"mode": "thresholds"}
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    else:
        defaults["custom"] = custom(panel)
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {
        "id": number, "type": panel["type"], "title": panel["title"], "description": panel["description"], "datasource": source,
        "gridPos": {"x": x, "y": y, "w": panel["width"], "h": panel["height"]},
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
        "links": [{"title": f"Runbook: {panel['runbook']}", "url": "${runbooks}/" + RUNBOOKS % panel["runbook"], "targetBlank": True}]
        if panel["runbook"] else [],
        "targets": [{"refId": chr(65 + i), "expr": query, "legendFormat": legend or "__auto", "datasource": source}
                    for i, (query, legend) in enumerate(panel["queries"])],
    }


def panels():
    out, number, y = [], 0, 0
    for title, row in ROWS:
        number += 1
        out.append({"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
                    "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        x, y = 0, y + 1
        for panel in row:
            number += 1
            if x + panel["width"] > 24:
                x, y = 0, y + panel["height"]
            out.append(render(panel, number, x, y))
            x += panel["width"]
        y += row[-1]["height"]
    return out


def variable(name, label, query):
    return {"type": "query", "name": name, "label": label, "datasource": {"type": "prometheus", "uid": "${datasource}"}, "refresh": 2,
            "query": {"query": query, "refId": name}, "definition": query, "includeAll": True, "allValue": ".*", "multi": True,
            "current": {"text": "All", "value": "$__all"}, "sort": 1}


DASHBOARD = {
    "uid": "switchboard-peak-load", "title": "Switchboard: peak load", "tags": ["switchboard"], "schemaVersion": 41, "version": 1,
    "description": "The one-look page: is every message accepted, logged, delivered and stored, how fast, and what is full.",
    "editable": True, "graphTooltip": 1, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
    "annotations": {"list": []},
    "links": [{"title": "Runbooks", "type": "link", "url": "${runbooks}/deploy/runbooks", "icon": "doc", "targetBlank": True}],
    "templating": {"list": [
        {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}, "refresh": 1},
        variable("lane", "Lane", "label_values(switchboard_build_info, lane)"),
        variable("instance", "Instance", 'label_values(switchboard_build_info{lane=~"$lane"}, instance)'),
        {"type": "textbox", "name": "runbooks", "label": "Where the repository can be read", "query": "https://example.org/switchboard",
         "current": {"text": "https://example.org/switchboard", "value": "https://example.org/switchboard"}, "hide": 0},
    ]},
    "panels": panels(),
}

json.dump(DASHBOARD, sys.stdout, indent=1, ensure_ascii=False)
sys.stdout.write("\n")
