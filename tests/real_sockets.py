"""The tests that ask for a real socket, and so are left out under `--simulated`, and why."""

from __future__ import annotations

SIMULATED = ("codecs", "protocols", "connecting", "closing", "node", "hostile")
"""The folders of which `nox -s simulated` runs all other tests."""

REASONS = {
    "they dial or listen with `socket` or with asyncio's own streams": [
        "connecting/test_adopting.py::test_a_socket_bound_by_hand_is_adopted",
        "node/test_cancellation_sweep.py",
        "protocols/test_first_and_last_word.py::test_a_banner_comes_before_the_first_answer",
        "protocols/test_first_and_last_word.py::test_connections_that_end_at_once_leave_nobody_online",
        "node/test_native_cancellation.py::test_a_sample_of_the_sweep_leaves_nothing",
        "node/test_native_cancellation.py::test_a_second_cancellation_gives_up_the_grace",
        "protocols/test_dropping.py::test_what_comes_with_the_message_that_is_processed_counts_too",
        "closing/test_without_half_close.py",
        "hostile/test_orphans.py::test_adopted_foreign_streams",
        "hostile/test_orphans.py::test_abort_with_nothing_queued",
    ],
    "they look at the system's socket, or at TCPTransport's own objects": [
        "connecting/test_listening.py::test_socket_attributes_of_an_inbound_connection_are_reachable",
        "protocols/test_handshake.py::test_the_sockets_options_are_within_reach",
        "node/test_native_cancellation.py::test_cancelled_poller",
        "node/test_native_cancellation.py::test_service_cancelled_again",
        "protocols/test_linear_work.py",
        "protocols/test_memory.py::test_a_peer_that_nobody_reads_from_is_stopped",
        "hostile/test_bytes.py::test_urgent_data_is_nothing_special",
    ],
    "they need the kernel's loopback, on which everything arrives at once": [
        "node/test_cancelling.py::test_hundreds_of_cancellations_leave_everything_as_it_was",
        "connecting/test_self_connection.py::test_an_adopted_stream_that_leads_back_is_refused",
        "node/test_background.py::test_started_in_the_last_turns",
        "protocols/test_outbox.py::test_deliver_meets_a_reset",
        "protocols/test_writing.py::test_direct_send_to_a_broken_socket",
    ],
    "they ask the system's resolver": [
        "connecting/test_self_connection.py::test_no_way_to_write_its_own_address_leads_to_itself"
    ],
    "they need the sizes of the kernel's buffers, or count what this process holds, which has the network in it": [
        "node/test_cleaning_up.py::test_a_hundred_nodes_leave_nothing",
        "node/test_cleaning_up.py::test_hundreds_of_connections_leave_nothing",
        "closing/test_causes.py::test_what_a_decoder_raises_keeps_nothing_of_the_message",
        "protocols/test_memory.py::test_answers_to_a_peer_that_does_not_read",
        "protocols/test_slow_peers.py",
    ],
}


def is_simulated(path: str) -> bool:
    """Whether a test, `folder/file.py::name`, needs no real socket."""
    left_out = (prefix for prefixes in REASONS.values() for prefix in prefixes)
    return path.startswith(tuple(f"{folder}/" for folder in SIMULATED)) and not path.startswith(tuple(left_out))
