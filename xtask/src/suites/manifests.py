"""Renders what is in deploy/ with kubectl's kustomize and Helm's own engine, and holds it against
Kubernetes' published schemas, and the ones against the others. A line for each thing that was held:
`ok`, `FAILED` or `skipped`, then its name and the reason, with tabs between.

manifests.py ROOT KUBECTL [--write]
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from grafana_foundation_sdk.cog import encoder as grafana_encoder
from grafana_foundation_sdk.cog import plugins as grafana_plugins
from grafana_foundation_sdk.models import dashboard as grafana_dashboard

KUBERNETES = [f"1.{minor}" for minor in range(30, 38)]
OVERLAYS = {
    "privileged": "daemonset.yaml",
    "capabilities": "daemonset-capabilities.yaml",
    "kube": "daemonset-kube.yaml",
}
# Overlays that are not rendered into a file.
FURTHER = ["kube-remotes"]
# The chart's values, each held against the schemas; the first four are the overlays.
CHOICES = {
    "privileged": {},
    "capabilities": {"privileged": False},
    "kube": {"kube": {"enabled": True}},
    "kube-remotes": {"kube": {"enabled": True, "remotes": True}},
    "remotes alone": {"kube": {"remotes": True}},
    "everything": {
        "image": {"digest": "sha256:" + "0a" * 32},
        "imagePullSecrets": [{"name": "registry"}],
        "maxSockets": 1_000_000,
        "examples": False,
        "config": '[ignore]\nnamespaces = ["kube-system"]\n',
        "tokens": {"secret": "tracer-tokens"},
        "kube": {"enabled": True, "remotes": True},
        "webhook": "http://hooks.shop.svc:8080/tracer",
        "otlp": "http://$(NODE_IP):4318",
        "extraEnv": [
            {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
        ],
        "extraArgs": ["--allow-host", "tracer.example.org"],
        "priorityQuota": True,
        "nodeSelector": {"pool": "shop"},
        "affinity": {"nodeAffinity": {}},
        "podLabels": {"team": "shop"},
        "podAnnotations": {"team": "shop"},
        "serviceAccount": {"name": "watcher", "annotations": {"team": "shop"}},
        "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.7/32"}}]}]},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {
            "enabled": True,
            "namespace": "monitoring",
            "annotations": {"grafana_folder": "tracer"},
        },
    },
    "least": {
        "doctor": False,
        "pin": "",
        "resources": {},
        "priorityClassName": "",
        "tolerations": [],
        "updateStrategy": {},
        "scrapeAnnotations": False,
        "serviceAccount": {"create": False},
        "networkPolicy": {"enabled": False},
    },
}
REFUSED = [
    {"privilged": True},
    {"port": "http"},
    {"port": 0},
    {"pin": "/tmp/pins"},
    {"image": {"digest": "0a"}},
    {"podMonitor": {"interval": "soon"}},
    {"tokens": {"key": "../x"}},
    {"kube": {"enabled": "yes"}},
    {"kube": {"remotes": "yes"}},
    {"webhook": "https://hooks.shop.svc/"},
    {"dashboards": {"enable": True}},
]
DASHBOARDS = "deploy/grafana"
HEAD = """\
# tracer on every node, {how}.
# Rendered from kustomize/overlays/{overlay}, where each line has its reason, by `cargo xtask manifests`.
#
#     kubectl apply -f deploy/{file}
#     kubectl -n tracer exec ds/tracer -c tracer -- /usr/bin/tracer top
#
# Over TCP there are metrics and the two probes only. To ask from outside, mount a Secret with a token,
# add `--token-file` to the arguments, and give `tracer top` the same file. The NetworkPolicy lets pods
# of the namespace `monitoring` in; change it to yours.
"""
HOW = {
    "privileged": "privileged: the simplest form that works everywhere",
    "capabilities": "with listed capabilities in place of `privileged`; needs Linux 5.10",
    "kube": "privileged, and asking the API server for workloads and labels of the node's pods",
}


def told(name, work):
    """Does one thing and says what came of it."""
    try:
        work()
        print("ok", name, sep="\t")
    except Exception as error:  # whatever it is, it is a failure of this thing only
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print("FAILED", name, reason[:600], sep="\t")


def hold(condition, what):
    if not condition:
        raise AssertionError(what)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def kustomized(root, kubectl, overlay):
    """An overlay as kubectl renders it."""
    return built(kubectl, root / "deploy/kustomize/overlays" / overlay)


def built(kubectl, folder):
    command = [kubectl, "kustomize", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def with_head(overlay, rendered):
    file = OVERLAYS[overlay]
    return HEAD.format(how=HOW[overlay], overlay=overlay, file=file) + rendered


def charted(chart, values, release="tracer"):
    """What the chart makes of values, the Notes left out."""
    chart.validate_schema(values)
    rendered = chart.render(values, name=release, namespace="tracer")
    manifests = {name: text for name, text in rendered.items() if name.endswith(".yaml")}
    return [document for text in manifests.values() for document in documents(text)]


def validate(documents):
    """Against the schemas of all versions; what is Prometheus' operator's, against models of its own."""
    for document in documents:
        if document["apiVersion"] == "monitoring.coreos.com/v1":
            model = getattr(prometheus_operator, document["kind"]).model_validate(document)
            known = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
            # the models pass over what they don't know
            hold(known["spec"] == document["spec"], f"only {known['spec']} is known")
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)


def refused(document, change):
    """The validators themselves must be able to say no."""
    wrong = copy.deepcopy(document)
    change(wrong["spec"])
    try:
        validate([wrong])
    except (kubernetes_validate.ValidationError, AssertionError):
        return
    raise ValueError("it was accepted")


def misspell(spec):
    spec["template"]["spec"]["hostPids"] = spec["template"]["spec"].pop("hostPID")


def misspell_path(spec):
    spec["podMetricsEndpoints"][0]["paths"] = spec["podMetricsEndpoints"][0].pop("path")


def same(overlay, chart):
    """The chart says what the overlay says, but for what names a release."""

    def plain(found):
        found = copy.deepcopy(found)
        for document in found:
            labels = document["metadata"].get("labels", {})
            for name in ("instance", "version", "managed-by"):
                labels.pop(f"app.kubernetes.io/{name}", None)
            labels.pop("helm.sh/chart", None)
            spec = document.get("spec", {})
            chosen = [spec.get("selector", {}).get("matchLabels")]
            chosen += [spec.get("podSelector", {}).get("matchLabels")]
            chosen += [spec.get("template", {}).get("metadata", {}).get("labels")]
            for labels in filter(None, chosen):
                labels.pop("app.kubernetes.io/instance", None)
            pod = spec.get("template", {}).get("spec", {})
            for container in pod.get("initContainers", []) + pod.get("containers", []):
                # what a cluster assumes of a tag where nothing is said
                hold(container.pop("imagePullPolicy", "IfNotPresent") == "IfNotPresent", "pull policy")
        return {document["kind"]: document for document in found}

    left, right = plain(overlay), plain(chart)
    left.pop("Namespace")  # a release is put into one that is there
    hold(left.keys() == right.keys(), f"{sorted(left)} and {sorted(right)}")
    for kind in left:
        hold(left[kind] == right[kind], f"{kind}: {left[kind]} and {right[kind]}")


def alone(documents):
    """With `kube.remotes` only, the role and the arguments are for that, and the token is mounted."""
    of = {document["kind"]: document for document in documents}
    resources = [rule["resources"] for rule in of["ClusterRole"]["rules"]]
    hold(resources == [["services"], ["endpointslices"]], resources)
    spec = of["DaemonSet"]["spec"]["template"]["spec"]
    arguments = spec["containers"][0]["args"]
    hold("--kube-remotes" in arguments and "--kube" not in arguments, arguments)
    hold(spec["automountServiceAccountToken"] is True, "no token")


def refuses(chart, values):
    try:
        charted(chart, values)
    except helm_python.HelmError:
        return
    raise AssertionError("it was accepted")


def findings(path):
    """What Helm's linter holds against the chart, but for a missing icon."""
    found = helm_python.lint(str(path))
    messages = found["messages"] if isinstance(found, dict) else found
    bad = [str(message) for message in messages if "icon is recommended" not in str(message)]
    hold(not bad, bad)


def alerts(root, documents):
    """The chart's rules are those of deploy/prometheus."""
    one_source = yaml.safe_load((root / "deploy/prometheus/alerts.yaml").read_text())
    rule = next(document for document in documents if document["kind"] == "PrometheusRule")
    hold(rule["spec"] == one_source, "other rules")


def shipped_dashboards(root):
    return {path.name: path.read_text() for path in sorted((root / DASHBOARDS).glob("*.json"))}


def dashboards(root, documents):
    """Where there is a ConfigMap of dashboards, it has the shipped ones and Grafana's sidecar finds it."""
    labelled = [d for d in documents if "grafana_dashboard" in d["metadata"].get("labels", {})]
    hold(len(labelled) == 1, f"{len(labelled)} ConfigMaps")
    hold(labelled[0]["data"] == shipped_dashboards(root), "other dashboards")
    validate(labelled)


def lost(written, read, path=""):
    """What a dashboard says that Grafana's types don't know."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            yield from lost(value, read.get(key), f"{path}.{key}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for index, (one, other) in enumerate(zip(written, read)):
            yield from lost(one, other, f"{path}[{index}]")
    elif written != read:
        yield f"{path}: {read} for {written}"


def known_to_grafana(text):
    """The dashboard read into the types that Grafana publishes, and written again, is the same."""
    written = json.loads(text)
    grafana_plugins.register_default_plugins()
    encoded = grafana_encoder.JSONEncoder().encode(grafana_dashboard.Dashboard.from_json(written))
    found = list(lost(written, json.loads(encoded)))
    hold(not found, found)


def misspelt(text):
    try:
        known_to_grafana(text.replace('"gridPos"', '"gridPosition"', 1))
    except AssertionError:
        return
    raise ValueError("it was accepted")


def images(root, documents):
    """Everything is of the version of the workspace."""
    cargo = (root / "Cargo.toml").read_text()
    version = cargo.split("[workspace.package]")[1].split('version = "')[1].split('"')[0]
    for document in documents:
        if document["kind"] == "DaemonSet":
            spec = document["spec"]["template"]["spec"]
            for container in spec["initContainers"] + spec["containers"]:
                hold(container["image"] == f"tracer:{version}", container["image"])


def main():
    root, kubectl = Path(sys.argv[1]), sys.argv[2]
    rendered = {overlay: kustomized(root, kubectl, overlay) for overlay in OVERLAYS}
    if "--write" in sys.argv:
        for overlay, file in OVERLAYS.items():
            (root / "deploy" / file).write_text(with_head(overlay, rendered[overlay]))
    overlays = {}
    for overlay, file in OVERLAYS.items():
        overlays[overlay] = documents(rendered[overlay])
        written = (root / "deploy" / file).read_text()
        told(
            f"{file} is what the overlay renders",
            lambda: hold(written == with_head(overlay, rendered[overlay]), "`cargo xtask manifests`"),
        )
        told(f"overlay {overlay} is valid", lambda: validate(overlays[overlay]))
        told(f"overlay {overlay} has this version", lambda: images(root, overlays[overlay]))
    for overlay in FURTHER:
        overlays[overlay] = documents(kustomized(root, kubectl, overlay))
        told(f"overlay {overlay} is valid", lambda: validate(overlays[overlay]))
    daemonset = next(d for d in overlays["privileged"] if d["kind"] == "DaemonSet")
    told("a misspelt field is refused", lambda: refused(daemonset, misspell))

    for name, text in shipped_dashboards(root).items():
        told(f"the dashboard {name} is of Grafana's types", lambda: known_to_grafana(text))
        told(f"a misspelt field of {name} is refused", lambda: misspelt(text))
    told(
        "the component's dashboards are the shipped ones",
        lambda: dashboards(root, documents(built(kubectl, root / DASHBOARDS))),
    )

    path = root / "deploy/chart/tracer"
    told("the chart has nothing that Helm's linter finds", lambda: findings(path))
    with helm_python.Chart.load(str(path)) as chart:
        charts = {}
        for choice, values in CHOICES.items():

            def render():
                charts[choice] = charted(chart, values)
                validate(charts[choice])

            told(f"the chart's {choice} is valid", render)
        for overlay in overlays:
            told(
                f"the chart's {overlay} is the overlay's",
                lambda: same(overlays[overlay], charts[overlay]),
            )
        told("remotes alone ask for no pods", lambda: alone(charts["remotes alone"]))
        monitor = next(d for d in charts["everything"] if d["kind"] == "PodMonitor")
        told("a misspelt field of a monitor is refused", lambda: refused(monitor, misspell_path))
        told("the chart's alerts are the shipped ones", lambda: alerts(root, charts["everything"]))
        told("the chart's dashboards are the shipped ones", lambda: dashboards(root, charts["everything"]))
        for values in REFUSED:
            told(f"the chart refuses {values}", lambda: refuses(chart, values))


main()
