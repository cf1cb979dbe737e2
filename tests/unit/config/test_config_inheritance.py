"""What a label takes from profiles and from its pool, and the spellings in which it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nodepool_k8s.config.settings import Label
    from tests.unit.config.conftest import Site

HEAD = """\
zookeeper-servers: [{host: zk}]
labels: [{name: small}, {name: space}]
"""
LABEL = "providers[0].pools[0].labels[0]"


def text(profiles: str, label: str, pool: str = "", kind: str = "pod") -> str:
    """Profiles from line 4 on; a pool's options, and then a label's."""
    lines = [HEAD + "profiles:", *profiles.splitlines()]
    lines += ["providers:", "- name: kube", "  driver: kubernetes", "  pools:", "  - name: main"]
    lines += [f"    {line}" for line in pool.splitlines()]
    lines += ["    labels:", "    - name: small", f"      type: {kind}"]
    lines += [f"      {line}" for line in label.splitlines()]
    return "\n".join(lines)


def pod(site: Site, profiles: str, label: str, pool: str = "") -> Label:
    settings = site.load(text(profiles, label, pool), contexts=None)
    (found,) = settings.pools[0].labels.values()
    return found


PROFILES = """\
- {name: a, image: of-a, cpu: 1, memory: 1, storage: 1}
- {name: b, image: of-b, cpu: 2}
- {name: c, profile: a, memory: 3}
- {name: d, profile: [c, b], storage: 4}
"""

TAKEN = [
    ("profile: a", ("of-a", 1, 1, 1)),
    ("profile: [a, b]", ("of-b", 2, 1, 1)),
    ("profile: [b, a]", ("of-a", 1, 1, 1)),
    ("profile: c", ("of-a", 1, 3, 1)),
    ("profile: d", ("of-b", 2, 3, 4)),
    ("profile: [d, a]", ("of-a", 1, 1, 1)),
    ("profile: d\ncpu: 9\nimage: own", ("own", 9, 3, 4)),
    ("profiles: [a]\nstorage: 8", ("of-a", 1, 1, 8)),
]


@pytest.mark.parametrize(("label", "taken"), TAKEN)
def test_a_label_overrides_profiles_and_later_ones_earlier(
    site: Site, label: str, taken: tuple[str, int, int, int]
) -> None:
    found = pod(site, PROFILES, label)
    assert (found.image, found.cpu, found.memory, found.storage) == taken


def test_a_profile_is_over_the_pools_defaults(site: Site) -> None:
    defaults = "default-label-cpu: 7\ndefault-label-memory: 7\ndefault-label-storage: 7"
    found = pod(site, PROFILES, "profile: b\nmemory: 5", defaults)
    assert (found.cpu, found.memory, found.storage) == (2, 5, 7)


def test_a_profile_may_be_the_pools_default(site: Site) -> None:
    default = "default-label-profile: a\ndefault-label-cpu: 7"
    assert pod(site, PROFILES, "storage: 2", default).cpu == 1
    assert pod(site, PROFILES, "profile: b", default).storage is None


def test_mappings_of_resources_are_taken_name_by_name(site: Site) -> None:
    found = pod(
        site,
        "- {name: a, extra-resources: {x: 1, y: 1}}",
        "image: i\nprofile: a\nextra-resources: {x: 2}",
        "default-label-extra-resources: {y: 3, z: 3}",
    )
    assert found.extra_resources == {"x": 2, "y": 1, "z": 3}


def test_a_profile_has_launch_options_too(site: Site) -> None:
    found = pod(site, "- {name: a, launch-timeout: 7m}", "image: i\nprofile: a")
    assert found.launch.launch_timeout == 420.0


def test_a_namespace_label_takes_what_has_an_effect_on_it(site: Site) -> None:
    profiles = "- {name: a, image: i, cpu: 3, labels: {x: y}}"
    whole = text(profiles, "profile: a", "default-label-memory: 9", kind="namespace")
    settings = site.load(whole, contexts=None)
    (found,) = settings.pools[0].labels.values()
    assert (found.labels, found.cpu, found.image) == ({"x": "y"}, None, None)
    assert settings.notices == ()


def test_a_shared_list_of_labels_takes_each_pools_own_defaults(site: Site) -> None:
    head = HEAD + "providers:\n- name: kube\n  driver: kubernetes\n  pools:\n"
    first = (
        "  - {name: m, default-label-cpu: 1, labels: &both [{name: small, type: pod, image: i}]}\n"
    )
    settings = site.load(head + first + "  - {name: n, default-label-cpu: 2, labels: *both}\n")
    assert [pool.labels["small"].cpu for pool in settings.pools] == [1, 2]


def test_a_shared_provider_takes_nothing_from_another(site: Site) -> None:
    pools = "[{name: m, default-label-cpu: 1, labels: [&l {name: small, type: pod, image: i}]}]"
    one = f"- &p {{name: one, driver: kubernetes, pools: {pools}}}\n"
    two = "- {<<: *p, name: two}\n- {<<: *p, name: three, pools: [{name: m, labels: [*l]}]}\n"
    settings = site.load(f"{HEAD}providers:\n{one}{two}")
    assert [pool.labels["small"].cpu for pool in settings.pools] == [1, 1, None]


WRONG = [
    ("- {name: a}", "image: i\nprofile: A", LABEL + ".profile", 14, "found 'A', expected the name"),
    ("- {name: a}", "image: i\nprofile: aa", LABEL + ".profile", 14, "did you mean 'a'?"),
    ("- {name: a}", "image: i\nprofile: [a, b]", LABEL + ".profile[1]", 14, "found 'b', expected"),
    ("- {name: a}", "image: i\nprofile: {a: b}", LABEL + ".profile", 14, "or a list of names"),
    ("- {name: a}", "image: i\nprofile: []", LABEL + ".profile", 14, "found an empty list"),
    ("- {name: a, profile: a}", "image: i", "profiles[0].profile", 4, "leads back to 'a'"),
    ("- {name: a, profile: z}", "image: i", "profiles[0].profile", 4, "found 'z', expected"),
    ("- {name: a, type: pod}", "image: i", "profiles[0].type", 4, "is not an option here"),
    ("- {name: a, memory: 4Gi}", "image: i", "profiles[0].memory", 4, "write 4096"),
    ("- {cpu: 1}", "image: i", "profiles[0].name", 4, "is missing"),
    (
        "- {name: a, cpu: 3}",
        "image: i\nprofile: a\ncpu-limit: 2",
        LABEL + ".cpu-limit",
        15,
        "cpu (3)",
    ),
    ("- {name: a, memory: 4Gi}", "image: i\nprofile: a", "profiles[0].memory", 4, "write 4096"),
    (
        "- {name: a, env: [{name: X}]}",
        "image: i\nprofile: a",
        "profiles[0].env[0].value",
        4,
        "missing",
    ),
    (
        "- {name: a}",
        "spec: {containers: [{name: a}]}\nprofile: a",
        LABEL + ".profile",
        14,
        "with spec",
    ),
]


@pytest.mark.parametrize(("profiles", "label", "path", "line", "message"), WRONG)
def test_a_wrong_profile_is_told_where_it_is_written(
    site: Site, profiles: str, label: str, path: str, line: int, message: str
) -> None:
    (problem,) = site.problems(text(profiles, label))
    assert (problem.path, problem.line) == (path, line)
    assert message in problem.message


def test_a_loop_of_profiles_is_told_at_each_of_them(site: Site) -> None:
    profiles = "- {name: a, profile: b}\n- {name: b, profile: [c, a]}\n- {name: c}"
    found = site.problems(text(profiles, "image: i\nprofile: a"))
    assert [problem.path for problem in found] == ["profiles[0].profile", "profiles[1].profile"]


def test_conflicts_of_inherited_options_name_their_source(
    site: Site,
) -> None:
    profiles = "- name: a\n  env:\n  - {name: X, value: 1}\n  - {name: X, value: 2}"
    (problem,) = site.problems(text(profiles, "image: i\nprofile: a"))
    assert (problem.path, problem.line) == ("profiles[0].env[1].name", 7)
    assert "the first is profiles[0].env[0].name, line 6" in problem.message


def test_a_profiles_limit_below_the_labels_request(site: Site) -> None:
    profiles = "- {name: a, cpu-limit: 2}"
    (problem,) = site.problems(text(profiles, "image: i\nprofile: a\ncpu: 3"))
    assert (problem.path, problem.line) == (LABEL + ".cpu", 15)
    assert "expected the profile's cpu-limit (2) or less" in problem.message


def test_snake_case_is_understood(site: Site) -> None:
    label = "image: i\nimage_pull: Never\nnode_selector: {a_b: c}\nextra_resources: {d_e: 2}"
    found = pod(site, "- {name: a}", label)
    assert (found.image_pull, found.placement.node_selector) == ("Never", {"a_b": "c"})
    assert found.extra_resources == {"d_e": 2}


def test_snake_case_in_profiles(site: Site) -> None:
    assert pod(site, "- {name: a, cpu_limit: 2}", "image: i\nprofile: a").cpu_limit == 2


SPELLED_WRONG = [
    ("node_selector: [a b]", ".node_selector[0]", "found 'a b', expected a mapping"),
    ("cpu: 4\ncpu_limit: 2", ".cpu_limit", "found 2, expected cpu (4) or more"),
    ("cpu_limit: 2\ncpu-limit: 3", "", "found 'cpu-limit' beside 'cpu_limit' on line 14"),
    ("env: []\nenvs: []", "", "found 'envs' beside 'env' on line 14, which means the same"),
    ("nodeselector: {}", ".nodeselector", "did you mean 'node-selector'?"),
]


@pytest.mark.parametrize(("lines", "path", "message"), SPELLED_WRONG)
def test_a_problem_names_an_option_as_it_is_written(
    site: Site, lines: str, path: str, message: str
) -> None:
    (problem,) = site.problems(text("- {name: a}", f"image: i\n{lines}"))
    assert problem.path == (LABEL + path if path else "")
    assert problem.line == 13 + len(lines.splitlines())
    assert message in problem.message


def test_one_spelling_overrides_another_that_was_merged(site: Site) -> None:
    found = pod(site, "- &a {name: a, cpu_limit: 2, cpu: 1}", "<<: *a\nimage: i\ncpu-limit: 3")
    assert (found.cpu, found.cpu_limit) == (1, 3)


def test_values_of_envs_stay_unsaid(site: Site) -> None:
    (problem,) = site.problems(
        text("- {name: a}", "image: i\nenvs: [{name: A, value: {s3cret: 1}}]")
    )
    assert "s3cret" not in str(problem)
