"""Every trap of the language has a test, or a decision that says why we differ: each row of section
1.10 of the shared reference, each remark that something is so in BuildKit's code alone, and each
rule of its cache keys. A row names where it is held; this file holds that the place exists.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TRAPS = "e2e/test_traps.py"
PARSED = "unit/dockerfile/test_dockerfile_instructions.py"
LINES = "unit/dockerfile/test_dockerfile_lines.py"
HEREDOCS = "unit/dockerfile/test_dockerfile_heredocs.py"
EXPANSION = "unit/dockerfile/test_dockerfile_expansion.py"
CHECKS = "unit/dockerfile/test_dockerfile_checks.py"
STAGES = "unit/graph/test_stages.py"
PLANS = "unit/dockerfile/test_golden_plans.py"
COPY = "e2e/test_build_copy.py"
COPIED = "e2e/test_build_copy_metadata.py"
ADD = "e2e/test_build_add.py"
URL = "e2e/test_build_add_url.py"
GIT = "e2e/test_build_add_git.py"
MOUNTS = "e2e/test_build_mounts.py"
CACHES = "e2e/test_run_caches.py"
OPTIONS = "e2e/test_run_options.py"
BUILT = "e2e/test_build_stages.py"
CONFIG = "e2e/test_build_config.py"
RUN = "e2e/test_build_run.py"
KEYS = "e2e/test_cache_behaviour.py"
DROPIN = "e2e/test_dropin.py"
PLATFORMS = "e2e/test_platforms.py"
IGNORE = "unit/context/test_ignore.py"
PEERS = "e2e/test_differential.py"

Place = tuple[str, str] | int  # a file below tests/ and a test in it, or a decision's number

# Section 1.10: trap vectors.
VECTORS: dict[str, tuple[Place, ...]] = {
    "COPY of a glob that matches nothing, of a name that is missing": (
        (TRAPS, "test_a_glob_may_match_nothing_and_a_name_may_not"),
    ),
    "COPY sub/* gives the contents of each directory": (
        (TRAPS, "test_a_matched_directory_gives_its_contents"),
    ),
    "COPY sub/*/dir2/foo /d/bar": ((TRAPS, "test_one_match_of_a_glob_takes_the_name_it_is_given"),),
    "WORKDIR test2, COPY foo ./bar/baz, WORKDIR ..": (
        (TRAPS, "test_workdir_and_copy_into_it"),
        (STAGES, "test_workdir_follows_the_previous_one"),
    ),
    "ENV ONE TWO= THREE=w, ENV a=1 b, ENV a": (
        (TRAPS, "test_forms_of_env"),
        (PARSED, "test_pair_errors"),
    ),
    "ARG FOO is absent, ARG BAR= is there": (
        (TRAPS, "test_an_arg_without_a_value_is_absent_and_an_empty_one_is_there"),
        (STAGES, "test_arg_without_value_is_absent_and_empty_is_empty"),
    ),
    "FROM busy${image#idle}": (
        (TRAPS, "test_modifiers_in_from"),
        (STAGES, "test_global_args_are_seen_in_from_and_imported_by_name"),
    ),
    "ARG X=${Y:?} and --build-arg X": (
        (TRAPS, "test_the_default_of_an_arg_that_must_be_given"),
        (STAGES, "test_a_required_variable_fails_unless_given"),
    ),
    "JSON of a number, JSON that is broken, single quotes": (
        (TRAPS, "test_forms_that_look_like_json"),
        (PARSED, "test_json_form"),
        (PARSED, "test_json_of_something_else_is_an_error"),
    ),
    "http_proxy alone changes, declared or not": (
        (TRAPS, "test_a_proxy_is_no_reason_to_run_again"),
        (OPTIONS, "test_proxies_are_seen_and_kept_nowhere"),
    ),
    "a file that a glob matches is renamed": (
        (TRAPS, "test_a_renamed_file_that_a_glob_matches_is_a_miss"),
    ),
    "a writable bind of a stage that is rebuilt alike": (
        (TRAPS, "test_a_writable_mount_of_a_stage_is_known_by_its_content"),
    ),
    "COPY --from of a later stage": (
        (TRAPS, "test_a_stage_that_comes_later_cannot_be_copied_from"),
    ),
    "names of stages in any case": (
        (TRAPS, "test_stage_names_have_no_case"),
        (STAGES, "test_stage_names_are_found_whatever_their_case"),
    ),
    "COPY --from of an owned directory": (
        (TRAPS, "test_a_copied_directory_leaves_its_own_owner_behind"),
    ),
}

# Sections 1.1 to 1.9: what the code says and the documents do not, or say otherwise.
CODE: dict[str, tuple[Place, ...]] = {
    "1.1 ARG and STOPSIGNAL ignore flags": ((LINES, "test_arg_and_stopsignal_ignore_flags"),),
    "1.1 check options above one instruction": (
        (LINES, "test_check_comment_above_one_instruction"),
    ),
    "1.1 a dangling continuation, an escaped escape": (
        (LINES, "test_continuations"),
        (LINES, "test_escaped_escape_does_not_continue"),
    ),
    "1.2 prefixes and suffixes need no newer syntax": ((EXPANSION, "test_expand"),),
    "1.2 the escape of a heredoc is a backslash": (
        (TRAPS, "test_the_escape_of_a_heredoc_is_always_the_same"),
        (HEREDOCS, "test_expansion_of_bodies"),
    ),
    "1.2 one environment per instruction": ((STAGES, "test_one_environment_per_instruction"),),
    "1.2 blanks in values": (
        (TRAPS, "test_values_with_blanks_are_one_word_but_in_expose"),
        (EXPANSION, "test_words"),
    ),
    "1.2 what is expanded and what not": (
        (CHECKS, "test_what_is_expanded"),
        (PARSED, "test_copy_from_takes_no_variable"),
    ),
    "1.3 the later of ARG and ENV wins": (
        (STAGES, "test_the_later_of_arg_and_env_wins_while_building"),
        (CONFIG, "test_configs"),
    ),
    "1.3 an ARG hides an ENV in its own stage alone": (
        (STAGES, "test_an_arg_hides_a_variable_in_its_own_stage_alone"),
        (PEERS, "test_builders_agree"),
    ),
    "1.3 arguments for scanners are no variables": (
        (STAGES, "test_what_is_said_to_a_scanner_reaches_no_step"),
    ),
    "1.4 STOPSIGNAL is checked once it is expanded": (
        (STAGES, "test_a_signal_is_checked_once_it_is_known"),
    ),
    "1.3 who inherits an ARG": (
        (STAGES, "test_args_are_inherited_by_stages_built_on_it_and_by_no_other"),
        (BUILT, "test_scopes_of_args"),
    ),
    "1.3 platform arguments": (
        (STAGES, "test_platform_arguments_are_global_until_declared"),
        (PLATFORMS, "test_platform_arguments"),
        (PLATFORMS, "test_platform_arguments_may_be_given"),
    ),
    "1.4 FROM finds stages by their small letters, the latest earlier one": (
        (TRAPS, "test_from_knows_stages_by_their_small_letters"),
        (STAGES, "test_from_binds_to_the_latest_earlier_stage_and_copy_to_the_last"),
    ),
    "1.4 a stage has the platform of the stage it stands on": (
        (STAGES, "test_a_stage_has_the_platform_of_the_stage_it_stands_on"),
        (TRAPS, "test_what_stands_on_the_build_platform_runs_there"),
    ),
    "1.4 --from=image is for the platform asked for": (
        (PLANS, "test_platforms_of_what_is_copied_from"),
    ),
    "1.4 ENTRYPOINT clears an inherited CMD only": (
        (STAGES, "test_entrypoint_clears_an_inherited_cmd_only"),
        (CONFIG, "test_configs"),
    ),
    "1.4 VOLUME keeps what is written later": ((PEERS, "test_builders_agree"),),
    "1.4 durations of HEALTHCHECK": ((PARSED, "test_healthcheck_errors"),),
    "1.4 WORKDIR makes its directory, but for /": (
        (CONFIG, "test_workdir_makes_its_directory_even_from_scratch"),
        (STAGES, "test_workdir_root_makes_nothing"),
    ),
    "1.4 history has all but FROM and ONBUILD": (
        (STAGES, "test_history_tells_a_trigger_where_it_runs"),
        (CONFIG, "test_history_tells_each_instruction_and_counts_the_layers"),
    ),
    "1.4 ONBUILD runs first, once": (
        (STAGES, "test_triggers_of_the_base_run_first_and_once"),
        (BUILT, "test_onbuild_runs_first_in_the_child_and_is_gone_then"),
    ),
    "1.5 several sources need no directory": (
        (TRAPS, "test_several_sources_for_one_name_leave_the_last"),
    ),
    "1.5 owners without a number": (11, (COPY, "test_copy_refuses")),
    "1.5 --exclude of what a glob matches": (11, (COPY, "test_copy_into_nothing")),
    "1.5 --link with --chmod": (
        12,
        (TRAPS, "test_link_follows_no_link_below_with_chmod_too"),
    ),
    "1.5 --from binds to the last of two names": (
        (STAGES, "test_from_binds_to_the_latest_earlier_stage_and_copy_to_the_last"),
    ),
    "1.5 owners of archives, and who is root's": (
        38,
        (ADD, "test_owners_come_from_the_archive_unless_chown"),
    ),
    "1.5 files of servers": (
        (URL, "test_a_file_of_a_server_is_private_and_roots"),
        (URL, "test_archives_are_unpacked_only_where_asked_for"),
        (URL, "test_the_date_of_a_server_is_kept_up_to_the_epoch"),
    ),
    "1.5 repositories": (
        (GIT, "test_a_checksum_holds_a_branch_to_a_commit"),
        (GIT, "test_the_git_directory_comes_where_asked_for"),
    ),
    "1.6 which directory a cache mount is": (
        32,
        (CACHES, "test_identity"),
        (CACHES, "test_which_cache_it_is_does_not_make_a_step_new"),
    ),
    "1.6 a mount without a target": ((TRAPS, "test_a_mount_without_a_target_is_at_the_workdir"),),
    "1.6 stubs of mounts": (26, (OPTIONS, "test_mounts_leave_no_trace")),
    "1.6 writes to a bind are gone": (
        (MOUNTS, "test_the_source_of_a_writable_bind_is_not_changed"),
    ),
    "1.6 the host's network and insecure steps": (
        30,
        (OPTIONS, "test_insecure_is_granted_on_the_command_line_alone"),
        (OPTIONS, "test_the_network_of_the_host_is_granted_on_the_command_line_alone"),
    ),
    "1.6 devices": ((OPTIONS, "test_devices_are_refused"),),
    "1.7 scripts with an interpreter, and heredocs of the shell": (
        (RUN, "test_forms_of_run"),
        (HEREDOCS, "test_run_of_only_a_heredoc_is_a_script"),
        (HEREDOCS, "test_run_with_text_is_left_to_the_shell"),
    ),
    "1.8 which ignore file, the last line wins": (
        (BUILT, "test_which_ignore_file_counts"),
        (IGNORE, "test_left_out"),
    ),
    "1.8 no ignore file for archives and repositories": (
        (DROPIN, "test_an_archive_on_stdin_is_a_context"),
        (DROPIN, "test_a_repository_is_a_context"),
    ),
    "1.9 targets have no number": ((TRAPS, "test_a_target_has_no_number"),),
    "1.9 named contexts replace stages and images": (
        (STAGES, "test_named_contexts_replace_images_with_and_without_tag"),
        (BUILT, "test_named_contexts"),
    ),
    "1.9 only what is needed": (
        (STAGES, "test_only_needed_stages_unfold"),
        (BUILT, "test_only_what_the_target_needs_runs"),
    ),
    "1.9 dockerfile in small letters": ((BUILT, "test_a_lower_case_dockerfile_is_found"),),
}

# Section 3: what a step is known by.
KNOWN_BY: dict[str, tuple[Place, ...]] = {
    "RUN: variables it sees, not metadata": (
        (TRAPS, "test_what_a_step_is_known_by"),
        (KEYS, "test_a_variable_a_step_can_see_is_a_reason_and_metadata_is_none"),
    ),
    "RUN: its base by content": (
        2,
        (KEYS, "test_another_command_with_the_same_effect_stops_there"),
    ),
    "RUN: never a secret's value": ((TRAPS, "test_what_a_step_is_known_by"),),
    "RUN: names of hosts, not addresses": (
        (DROPIN, "test_a_hosts_name_is_in_the_key_and_its_address_is_not"),
    ),
    "RUN: security": ((OPTIONS, "test_insecure_makes_another_key"),),
    "RUN: binds by content": (
        (MOUNTS, "test_mounts_by_content_hit_when_the_stage_is_rebuilt_alike"),
    ),
    "COPY: names and modes, no times": (
        (TRAPS, "test_what_a_copy_is_known_by"),
        (TRAPS, "test_the_same_file_elsewhere_is_a_hit"),
        (KEYS, "test_a_mode_is_content_and_rebuilds"),
    ),
    "COPY: not its base": (3, (COPY, "test_copy_onto_a_base")),
    "COPY: capabilities and attributes": ((COPIED, "test_extended_attributes_are_copied"),),
    "files of the same size and time are read": (
        (KEYS, "test_a_file_of_the_same_size_and_time_is_still_read"),
    ),
    "files of servers: content": (
        35,
        (URL, "test_a_server_that_knows_no_validators_is_believed_by_digest"),
    ),
    "repositories: commit": ((GIT, "test_a_commit_is_the_key"),),
    "--no-cache and --no-cache-filter": (
        (KEYS, "test_no_cache_does_it_all_again_with_the_same_result"),
        (KEYS, "test_no_cache_filter_names_stages"),
    ),
}
ROWS = {
    **{f"1.10 {row}": places for row, places in VECTORS.items()},
    **CODE,
    **{f"3 {row}": places for row, places in KNOWN_BY.items()},
}


@lru_cache(maxsize=64)
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@lru_cache(maxsize=1)
def decisions() -> frozenset[int]:
    text = (ROOT / "DECISIONS.md").read_text()
    return frozenset(int(number) for number in re.findall(r"(?m)^## ([0-9]+)\. ", text))


@pytest.mark.parametrize("row", ROWS)
def test_row_is_held(row: str) -> None:
    assert ROWS[row]
    for place in ROWS[row]:
        if isinstance(place, int):
            assert place in decisions()
        else:
            path, name = place
            assert name in functions_in(path), f"{path} has no {name}"


def test_every_vector_has_its_own_row() -> None:
    """Section 1.10 has fifteen rows."""
    assert len(VECTORS) == 15
