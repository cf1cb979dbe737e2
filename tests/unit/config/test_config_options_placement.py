"""Where a pod may run and what it runs: forms that are understood, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nodepool_k8s.config.settings import Label
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"


def pod(site: Site, lines: str) -> Label:
    (found,) = site.label(f"image: i\n{lines}").pools[0].labels.values()
    return found


SELECTORS = [
    ("{kubernetes.io/os: linux, version: 1.10}", {"kubernetes.io/os": "linux", "version": "1.10"}),
    (
        "kubernetes.io/os=linux,kubernetes.io/arch=amd64",
        {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
    ),
    ("'disk=ssd, empty='", {"disk": "ssd", "empty": ""}),
    ('[{"key": "kubernetes.io/arch", "value": "amd64"}]', {"kubernetes.io/arch": "amd64"}),
    ("{key: kubernetes.io/arch, value: 1.10}", {"kubernetes.io/arch": "1.10"}),
    ("[]", {}),
]


@pytest.mark.parametrize(("written", "selector"), SELECTORS)
def test_the_forms_of_a_node_selector(site: Site, written: str, selector: dict[str, str]) -> None:
    for spelling in ("node-selector", "node_selector"):
        assert pod(site, f"{spelling}: {written}").placement.node_selector == selector


def test_a_compute_pool_is_a_node_selector(site: Site) -> None:
    found = pod(site, "compute-pool: training\nnode-selector: {a: b}")
    wanted = {"outerbounds.co/compute-pool": "training", "a": "b"}
    assert found.placement.node_selector == wanted


def test_the_key_of_compute_pools_is_the_providers(site: Site) -> None:
    text = site.text("image: i\ncompute_pool: training")
    text = text.replace("    context: here\n", "    context: here\n    compute-pool-key: pool\n")
    (label,) = site.load(text).pools[0].labels.values()
    assert label.placement.node_selector == {"pool": "training"}


TOLERATION = '"key": "nvidia.com/gpu", "operator": "Equal", "value": "v100"'

TOLERATIONS: list[tuple[str, dict[str, Any]]] = [
    (
        f'{{{TOLERATION}, "effect": "NoSchedule"}}',
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "v100", "effect": "NoSchedule"},
    ),
    (
        "{key: a, operator: Exists, effect: NoExecute, toleration_seconds: 300}",
        {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
    ),
    (
        "{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 0}",
        {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
    ),
    ("{operator: Exists}", {"operator": "Exists"}),
    ("{key: a, value: 1.10}", {"key": "a", "value": "1.10"}),
]


@pytest.mark.parametrize(("written", "toleration"), TOLERATIONS)
def test_tolerations_in_snake_and_camel_case(
    site: Site, written: str, toleration: dict[str, Any]
) -> None:
    assert pod(site, f"tolerations: [{written}]").placement.tolerations == (toleration,)


SNAKE = """\
affinity:
  node_affinity:
    required_during_scheduling_ignored_during_execution:
      node_selector_terms:
      - match_expressions:
        - {key: my_zone, operator: In, values: [a, 1.10]}
        match_fields:
        - {key: metadata.name, operator: NotIn, values: [bad]}
    preferred_during_scheduling_ignored_during_execution:
    - weight: 10
      preference: {match_expressions: [{key: cores, operator: Gt, values: [4]}]}
  pod_affinity:
    preferred_during_scheduling_ignored_during_execution:
    - weight: 1
      pod_affinity_term:
        label_selector: {match_labels: {my_app: web}}
        topology_key: kubernetes.io/hostname
  pod_anti_affinity:
    required_during_scheduling_ignored_during_execution:
    - label_selector: {match_expressions: [{key: app, operator: DoesNotExist}]}
      topology_key: zone
      namespace_selector: {}
      namespaces: [a]
"""
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
AFFINITY = {
    "nodeAffinity": {
        REQUIRED: {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "my_zone", "operator": "In", "values": ["a", "1.10"]}
                    ],
                    "matchFields": [
                        {"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}
                    ],
                }
            ]
        },
        PREFERRED: [
            {
                "weight": 10,
                "preference": {
                    "matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]
                },
            }
        ],
    },
    "podAffinity": {
        PREFERRED: [
            {
                "weight": 1,
                "podAffinityTerm": {
                    "labelSelector": {"matchLabels": {"my_app": "web"}},
                    "topologyKey": "kubernetes.io/hostname",
                },
            }
        ]
    },
    "podAntiAffinity": {
        REQUIRED: [
            {
                "labelSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]},
                "topologyKey": "zone",
                "namespaceSelector": {},
                "namespaces": ["a"],
            }
        ]
    },
}


def camel(text: str) -> str:
    """The keys of Kubernetes' own in its own case; free keys stay."""
    words = {word for word in text.replace(":", " ").split() if "_" in word}
    for word in sorted(words, key=len, reverse=True):
        if not word.startswith(("my_", "{my_")):
            first, *rest = word.lstrip("{").split("_")
            text = text.replace(word.lstrip("{"), first + "".join(map(str.title, rest)))
    return text


def test_affinity_in_snake_and_camel_case(site: Site) -> None:
    assert pod(site, SNAKE).placement.affinity == AFFINITY
    assert "nodeSelectorTerms" in camel(SNAKE)
    assert pod(site, camel(SNAKE)).placement.affinity == AFFINITY


def test_classes_of_pods(site: Site) -> None:
    found = pod(site, "runtime-class: gvisor\npriority_class: batch\nscheduler-name: s").placement
    assert (found.runtime_class, found.priority_class) == ("gvisor", "batch")
    assert found.scheduler_name == "s"


TERM = (
    f"affinity: {{nodeAffinity: {{{REQUIRED}: "
    "{nodeSelectorTerms: [{matchExpressions: [%s]}]}}}"
)
AT = f".affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0]"

REFUSED = [
    ("node-selector: linux", ".node-selector", "a text like 'kubernetes.io/arch=amd64,disk=ssd'"),
    ("node-selector: a=b,a=c", ".node-selector", "expected labels of Kubernetes nodes"),
    ("node-selector: 'a=b c'", ".node-selector", "expected labels of Kubernetes nodes"),
    ("node-selector: 3", ".node-selector", "found 3, expected"),
    ("node-selector: [{key: a}]", ".node-selector[0].value", "is missing, expected at most 63"),
    (
        "node-selector: [{key: a, value: b}, {key: a, value: c}]",
        ".node-selector[1].key",
        "a key that no other pair has",
    ),
    (
        "compute-pool: x\nnode-selector: {outerbounds.co/compute-pool: y}",
        ".compute-pool",
        "which says outerbounds.co/compute-pool=y",
    ),
    ("compute-pool: 'a b'", ".compute-pool", "expected the name of a compute pool"),
    (
        f'tolerations: [{{{TOLERATION}, "effect": "NoSchedule", "toleration_seconds": 300}}]',
        ".tolerations[0].toleration_seconds",
        "found 300, expected no such seconds without effect: NoExecute, as the API server would",
    ),
    (
        "tolerations: [{operator: Exists, tolerationSeconds: 3}]",
        ".tolerations[0].tolerationSeconds",
        "leave them out, or say effect: NoExecute",
    ),
    (
        "tolerations: [{value: a}]",
        ".tolerations[0].operator",
        "expected Exists, because there is no",
    ),
    ("tolerations: [{key: a, operator: Exists, value: b}]", ".tolerations[0].value", "no value"),
    ("tolerations: [{key: a, effect: Noexecute}]", ".tolerations[0].effect", "mean 'NoExecute'?"),
    ("tolerations: [{key: a, operator: equal}]", ".tolerations[0].operator", "mean 'Equal'?"),
    ("tolerations: [{kee: a}]", ".tolerations[0].kee", "did you mean 'key'?"),
    ("tolerations: [{key: [a]}]", ".tolerations[0].key", "found a list, expected letters, digits"),
    ("tolerations: {key: a}", ".tolerations", "begin each entry with '-'"),
    (TERM % "{key: a, operator: In}", AT + ".values", "at least one value for operator: In"),
    (TERM % "{key: a, operator: Exists, values: [b]}", AT + ".values", "no values beside operator"),
    (TERM % "{key: a, operator: Gt, values: [b]}", AT + ".values", "a list of one whole number"),
    (TERM % "{key: a, operator: Is}", AT + ".operator", "expected In, NotIn, Exists"),
    (TERM % "{operator: Exists}", AT + ".key", "is missing"),
    (
        f"affinity: {{nodeAffinity: {{{REQUIRED}: {{nodeSelectorTerms: []}}}}}}",
        f".affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms",
        "a list of at least one term",
    ),
    (
        f"affinity: {{nodeAffinity: {{{PREFERRED}: [{{weight: 101, preference: {{}}}}]}}}}",
        f".affinity.nodeAffinity.{PREFERRED}[0].weight",
        "found 101, expected a whole number from 1 to 100",
    ),
    (
        f"affinity: {{podAffinity: {{{REQUIRED}: [{{labelSelector: {{}}}}]}}}}",
        f".affinity.podAffinity.{REQUIRED}[0].topologyKey",
        "is missing",
    ),
    ("affinity: {nodeafinity: {}}", ".affinity.nodeafinity", "did you mean 'nodeAffinity'?"),
    ("runtime-class: g_visor", ".runtime-class", "the name of a RuntimeClass: lower-case"),
    ("priority-class: High", ".priority-class", "the name of a PriorityClass: lower-case"),
    ("command: sleep 9", ".command", "a program and its arguments"),
    ("command: []", ".command", "found an empty list"),
    ("command: [{a: b}]", ".command[0]", "found a mapping, expected text"),
    ("args: run", ".args", "expected a list of texts"),
    ("working-dir: src", ".working-dir", "found 'src', expected an absolute path"),
    ("pod-info-env: 'no'", ".pod-info-env", "found 'no', expected true or false"),
    (
        "envs: [{name: 1A, value: b}]",
        ".envs[0].name",
        "found '1A', expected the name of an environ",
    ),
    ("env: [{name: A, value: b}, {name: A, value: c}]", ".env[1].name", "no other variable has"),
]


@pytest.mark.parametrize(("lines", "path", "message"), REFUSED)
def test_wrong_placement_and_workload_are_refused(
    site: Site, lines: str, path: str, message: str
) -> None:
    (problem,) = site.problems(site.text(f"image: i\n{lines}"))
    assert (problem.path, problem.line) == (LABEL + path, 16)
    assert message in problem.message


def test_a_label_with_a_raw_spec_takes_none_of_it(site: Site) -> None:
    lines = "qos: BestEffort\ntolerations: []\ncommand: [a]\nspec: {containers: [{name: a}]}"
    found = site.problems(site.text(lines))
    assert [problem.path for problem in found] == [
        f"{LABEL}.{key}" for key in ("qos", "tolerations", "command")
    ]
    assert all("cannot be given together with spec" in problem.message for problem in found)


def test_what_a_pod_runs(site: Site) -> None:
    lines = "command: [run, 1.10]\nargs: [--on, true]\nworking_dir: /src\npod_info_env: false"
    found = pod(site, lines).workload
    assert (found.command, found.args) == (("run", "1.10"), ("--on", "true"))
    assert (found.working_dir, found.pod_info_env) == ("/src", False)


def test_numbers_as_variables_become_text_with_a_notice(site: Site) -> None:
    settings = site.label(
        'image: i\nenvs: [{"name": "env-name", "value": "value"}, {name: B, value: 1.10}]'
    )
    (label,) = settings.pools[0].labels.values()
    assert label.workload.env == (("env-name", "value"), ("B", "1.10"))
    (notice,) = settings.notices
    assert "envs[1].value: becomes text as it is written" in notice


DEFAULTS = """\
default-label-tolerations: [{operator: Exists}]
default-label-affinity: {podAffinity: {}}
default-label-node-selector: a=b
default-label-compute-pool: p
default-label-runtime-class: r
default-label-priority-class: q
default-label-scheduler-name: s
default-label-env: [{name: A, value: b}]
default-label-pod-info-env: false
default-label-working-dir: /w
default-label-gpu-vendor: amd
default-label-gpu: 2
default-label-qos: BestEffort
"""


def test_a_pool_may_give_all_of_it_but_commands(site: Site) -> None:
    keys = "".join(f"        {line}\n" for line in DEFAULTS.splitlines())
    main = "      - name: main\n"
    text = site.text("image: i").replace(main, main + keys)
    (label,) = site.load(text).pools[0].labels.values()
    placement, workload = label.placement, label.workload
    assert placement.tolerations == ({"operator": "Exists"},)
    assert placement.affinity == {"podAffinity": {}}
    assert placement.node_selector == {"a": "b", "outerbounds.co/compute-pool": "p"}
    assert (placement.runtime_class, placement.priority_class) == ("r", "q")
    assert (placement.scheduler_name, workload.working_dir) == ("s", "/w")
    assert (workload.env, workload.pod_info_env) == ((("A", "b"),), False)
    assert (label.gpu, label.gpu_resource) == (2, "amd.com/gpu")
    (problem,) = site.problems(
        text.replace("default-label-qos: BestEffort", "default-label-args: []")
    )
    assert problem.message.startswith("is not an option here")
