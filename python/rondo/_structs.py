# SPDX-License-Identifier: BSD-2-Clause
"""The structures and constants of rondo.h, as ctypes has them.

Written by hand, so that a reader sees them beside the header; t/8000-python-structs.t compares each size, each field's offset and
each constant with what a C compiler makes of the header. A structure whose first field is struct_size gets it when it is made; all other
fields are zero then, which means "the default".
"""
import ctypes as c

NUMERICS = 1

F32, BF16, F16, Q8 = 1, 2, 3, 4
OP_ROOM, OP_COUNT, ALGORITHM_ROOM = 32, 7, 16
ERRORS = {
    "EINVAL": -1, "ENOMEM": -2, "ENOTSUP": -3, "EMISMATCH": -4, "EPEER": -5, "ETIMEDOUT": -6, "EDEVICE": -7, "ETRANSPORT": -8,
    "EIO": -9, "EFORMAT": -10, "ECANCELED": -11,
}

# constants that the test compares: C's name, ours
CONSTANTS = {"RONDO_NUMERICS": NUMERICS, "RONDO_F32": F32, "RONDO_BF16": BF16, "RONDO_F16": F16, "RONDO_Q8": Q8,
             "RONDO_OP_ROOM": OP_ROOM, "RONDO_OP_COUNT": OP_COUNT, "RONDO_ALGORITHMS": ALGORITHM_ROOM}
CONSTANTS.update(("RONDO_" + name, value) for name, value in ERRORS.items())

Pi64, Pi32, Pu8 = c.POINTER(c.c_int64), c.POINTER(c.c_int32), c.POINTER(c.c_uint8)
Body = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p)              # rondo_body
Progress = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_double)
Trace = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p)


class Sized(c.Structure):
    """A structure that says its own size, for libraries that know more or fewer fields."""

    def __init__(self, **fields):
        super().__init__(struct_size=c.sizeof(type(self)), **fields)


class rondo_tensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("type", c.c_int32), ("dims", c.c_int32), ("shape", c.c_int64 * 4), ("stride", c.c_int64 * 4),
                ("scale", c.c_void_p), ("memory", c.c_int32), ("reserved", c.c_int32), ("spare", c.c_int64 * 4)]


class rondo_span(c.Structure):
    _fields_ = [("first", c.c_int64), ("count", c.c_int64), ("step", c.c_int64), ("row", c.c_int64)]


class rondo_context_desc(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("device", c.c_char_p), ("transport", c.c_char_p), ("transport_handle", c.c_void_p),
                ("isa", c.c_char_p), ("device_index", c.c_int32), ("threads", c.c_int32), ("deadline", c.c_double),
                ("hardware", c.c_void_p)]


class rondo_context_info(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("device", c.c_char_p), ("transport", c.c_char_p), ("isa", c.c_char_p), ("rank", c.c_int32),
                ("ranks", c.c_int32), ("threads", c.c_int32), ("transfer_memory", c.c_int32)]


class rondo_comm_stats(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("messages", c.c_uint64 * OP_ROOM), ("bytes", c.c_uint64 * OP_ROOM),
                ("wait_seconds", c.c_double)]


class rondo_attention_desc(Sized):
    _fields_ = [
        ("struct_size", c.c_size_t), ("heads", c.c_int64), ("kv_heads", c.c_int64), ("head_dim", c.c_int64), ("value_dim", c.c_int64),
        ("sequences", c.c_int64), ("tokens", c.c_int64), ("cached", c.c_int64), ("tokens_of", Pi64), ("cached_of", Pi64),
        ("causal", c.c_int32), ("windowed", c.c_int32), ("window_left", c.c_int64), ("window_right", c.c_int64), ("scale", c.c_double),
        ("q_type", c.c_int32), ("kv_type", c.c_int32), ("out_type", c.c_int32), ("layout", c.c_int32), ("algorithm", c.c_int32),
        ("arithmetic", c.c_int32), ("level", c.c_int32), ("leaf", c.c_int32), ("head_groups", c.c_int32), ("placement", c.c_void_p),
        ("placement_sequences", Pi64), ("grid", c.c_int32 * 2), ("owners", Pi32), ("softcap", c.c_double), ("alibi", c.c_int32),
        ("bias", c.c_int32), ("sinks", c.c_int32), ("probs", c.c_int32), ("probs_first", c.c_int64), ("probs_count", c.c_int64),
        ("dropout", c.c_double), ("documents", Pi32), ("documents_first", Pi64), ("mask", Pu8), ("mask_heads", c.c_int64),
        ("mask_row_stride", c.c_int64), ("mask_head_stride", c.c_int64), ("mask_row", Pi64), ("mask_key", Pi64),
        ("shared_kv", c.c_int32), ("gradients", c.c_int32)]


class rondo_attention_info(Sized):
    _fields_ = [
        ("struct_size", c.c_size_t), ("algorithm", c.c_int32), ("layout", c.c_int32), ("arithmetic", c.c_int32), ("level", c.c_int32),
        ("leaf", c.c_int32), ("head_groups", c.c_int32), ("q_rows", c.c_int64), ("kv_rows", c.c_int64), ("workspace_bytes", c.c_size_t),
        ("device_bytes", c.c_size_t), ("plan_bytes", c.c_size_t), ("messages", c.c_uint64), ("bytes", c.c_uint64),
        ("messages_total", c.c_uint64), ("bytes_total", c.c_uint64), ("visible_pairs", c.c_uint64), ("visible_pairs_here", c.c_uint64),
        ("flops", c.c_double), ("hash", c.c_uint64), ("pack_bytes", c.c_size_t), ("operations", c.c_int64), ("imbalance", c.c_double),
        ("grid", c.c_int32 * 2), ("probs_rows", c.c_int64), ("backward_algorithm", c.c_int32), ("reserved", c.c_int32),
        ("backward_workspace_bytes", c.c_size_t), ("backward_device_bytes", c.c_size_t), ("backward_pack_bytes", c.c_size_t),
        ("backward_messages", c.c_uint64), ("backward_bytes", c.c_uint64), ("backward_messages_total", c.c_uint64),
        ("backward_bytes_total", c.c_uint64), ("backward_flops", c.c_double), ("chosen_by", c.c_int32), ("reserved2", c.c_int32),
        ("predicted_seconds", c.c_double * ALGORITHM_ROOM), ("backward_recompute_bytes", c.c_size_t)]


class rondo_attention_io(Sized):
    _fields_ = [
        ("struct_size", c.c_size_t), ("q", rondo_tensor), ("k", rondo_tensor), ("v", rondo_tensor), ("out", rondo_tensor),
        ("lse", rondo_tensor), ("kv_row", Pi64), ("progress", Progress), ("user", c.c_void_p), ("q_row", Pi64), ("out_row", Pi64),
        ("lse_row", Pi64), ("alibi", rondo_tensor), ("sinks", rondo_tensor), ("bias", rondo_tensor), ("bias_row", Pi64),
        ("bias_key", Pi64), ("probs", rondo_tensor), ("probs_row", Pi64), ("probs_key", Pi64), ("seed", c.c_uint64)]


class rondo_attention_gradients(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("dout", rondo_tensor), ("dlse", rondo_tensor), ("dq", rondo_tensor), ("dk", rondo_tensor),
                ("dv", rondo_tensor), ("dbias", rondo_tensor), ("dsinks", rondo_tensor), ("accumulate", c.c_int32), ("recompute", c.c_int32)]


class rondo_delta_desc(Sized):
    _fields_ = [
        ("struct_size", c.c_size_t), ("heads", c.c_int64), ("key_heads", c.c_int64), ("key_dim", c.c_int64), ("value_dim", c.c_int64),
        ("gate_dim", c.c_int64), ("sequences", c.c_int64), ("tokens", c.c_int64), ("cu_seqlens", Pi64), ("shares", Pi64),
        ("type", c.c_int32), ("gate_type", c.c_int32), ("beta_type", c.c_int32), ("out_type", c.c_int32), ("gate", c.c_int32), ("beta", c.c_int32),
        ("norm", c.c_int32), ("way", c.c_int32), ("lower_bound", c.c_double), ("scale", c.c_double), ("initial_state", c.c_int32),
        ("final_state", c.c_int32), ("checkpoint_count", c.c_int64), ("checkpoints", Pi64), ("tile", c.c_int64), ("gradients", c.c_int32),
        ("tolerance", c.c_double), ("chunk", c.c_int32), ("reserved", c.c_int32)]


class rondo_delta_info(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("way", c.c_int32), ("backward_way", c.c_int32), ("first_row", c.c_int64), ("rows", c.c_int64),
                ("rows_total", c.c_int64), ("operations", c.c_int64), ("workspace_bytes", c.c_size_t), ("messages", c.c_uint64),
                ("bytes", c.c_uint64), ("flops", c.c_double), ("hash", c.c_uint64), ("segments", c.c_int64), ("skipped", c.c_int64),
                ("certificate", c.c_double), ("backward_operations", c.c_int64), ("backward_workspace_bytes", c.c_size_t),
                ("backward_messages", c.c_uint64), ("backward_bytes", c.c_uint64), ("backward_flops", c.c_double)]


class rondo_delta_io(Sized):
    _fields_ = [("struct_size", c.c_size_t)] + [(name, rondo_tensor) for name in (
        "q", "k", "v", "g", "beta", "a_log", "dt_bias", "initial_state", "out", "final_state", "checkpoints")] + [
            ("progress", Progress), ("user", c.c_void_p)]


class rondo_delta_gradients(Sized):
    _fields_ = [("struct_size", c.c_size_t)] + [(name, rondo_tensor) for name in (
        "dout", "dfinal_state", "dq", "dk", "dv", "dg", "dbeta", "da_log", "ddt_bias", "dinitial_state")] + [
        ("accumulate", c.c_int32), ("reserved", c.c_int32)]


class rondo_schedule_desc(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("ranks", c.c_int32), ("backward", c.c_int32), ("transport", c.c_char_p),
                ("device", c.c_char_p), ("hardware", c.c_void_p)]


class rondo_schedule_info(Sized):
    _fields_ = [
        ("struct_size", c.c_size_t), ("ranks", c.c_int32), ("algorithm", c.c_int32), ("layout", c.c_int32), ("arithmetic", c.c_int32),
        ("level", c.c_int32), ("leaf", c.c_int32), ("head_groups", c.c_int32), ("in_place", c.c_int32), ("messages", c.c_uint64),
        ("bytes", c.c_uint64), ("visible_pairs", c.c_uint64), ("flops", c.c_double), ("hash", c.c_uint64), ("imbalance", c.c_double),
        ("grid", c.c_int32 * 2), ("chosen_by", c.c_int32), ("delta_way", c.c_int32), ("predicted_seconds", c.c_double * ALGORITHM_ROOM)]


class rondo_schedule_rank_info(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("operations", c.c_int64), ("messages", c.c_uint64), ("bytes", c.c_uint64),
                ("flops", c.c_double), ("workspace_bytes", c.c_size_t), ("pack_bytes", c.c_size_t)]


class rondo_linear_desc(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("in", c.c_int64), ("out", c.c_int64), ("type", c.c_int32), ("leaves", c.c_int32),
                ("arithmetic", c.c_int32), ("level", c.c_int32), ("group", c.c_int32), ("parts", c.c_int32), ("part", c.c_int32),
                ("reserved", c.c_int32), ("leaf_begin", Pi32)]


class rondo_tokens_desc(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("sequences", c.c_int64), ("lengths", Pi64), ("spans", c.c_void_p), ("span_counts", Pi64),
                ("parts", c.c_int32), ("part", c.c_int32)]


class rondo_cross_entropy_io(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("rows", c.c_int64), ("classes", c.c_int64), ("leaves", c.c_int32), ("ignore", c.c_int32),
                ("labels", c.c_void_p), ("logits", c.c_void_p), ("stride", c.c_int64), ("loss", c.c_void_p), ("dloss", c.c_void_p),
                ("dloss_stride", c.c_int64), ("dx", c.c_void_p), ("dx_stride", c.c_int64), ("add", c.c_int32), ("reserved", c.c_int32)]


class rondo_tp_table(Sized):
    _fields_ = [("struct_size", c.c_size_t), ("total", c.c_int64), ("width", c.c_int64), ("weights", c.c_void_p), ("type", c.c_int32),
                ("reserved", c.c_int32), ("data", c.c_void_p), ("linear", c.c_void_p)]


STRUCTURES = [rondo_tensor, rondo_span, rondo_context_desc, rondo_context_info, rondo_comm_stats, rondo_attention_desc,
              rondo_attention_info, rondo_attention_io, rondo_attention_gradients, rondo_schedule_desc, rondo_schedule_info,
              rondo_schedule_rank_info, rondo_delta_desc, rondo_delta_info, rondo_delta_io,
              rondo_delta_gradients, rondo_linear_desc, rondo_tokens_desc, rondo_cross_entropy_io, rondo_tp_table]

P, I, L, Z, D, U64, S = c.c_void_p, c.c_int, c.c_int64, c.c_size_t, c.c_double, c.c_uint64, c.c_char_p
I32, F = c.c_int32, c.c_float
# name: what it returns, what it takes. P is any pointer, given as a number, byref() or an array.
FUNCTIONS = {
    "rondo_version": (S, []), "rondo_numerics_version": (I, []), "rondo_build_options": (S, []),
    "rondo_error_name": (S, [I]), "rondo_error_string": (S, [I]), "rondo_error_text": (S, []),
    "rondo_context_create": (I, [P, P]), "rondo_context_destroy": (None, [P]), "rondo_launch": (I, [I, P, Body, P]),
    "rondo_context_rank": (I, [P]), "rondo_context_ranks": (I, [P]), "rondo_context_query": (I, [P, P]),
    "rondo_context_revoke": (None, [P, I, S]), "rondo_barrier": (I, [P]), "rondo_broadcast": (I, [P, P, Z, I]),
    "rondo_all_gather": (I, [P, P, P, P]),
    "rondo_operation_name": (S, [I]), "rondo_comm_query": (I, [P, P]), "rondo_layout_name": (S, [I]), "rondo_algorithm_name": (S, [I]),
    "rondo_arithmetic_name": (S, [I]), "rondo_level_name": (S, [I]), "rondo_hash_add": (None, [P, P, Z, L, L]),
    "rondo_hash_close": (U64, [U64, I, I, P, I]),
    "rondo_attention_create": (I, [P, P, P]), "rondo_attention_destroy": (None, [P]), "rondo_attention_query": (I, [P, P]),
    "rondo_attention_spans": (L, [P, L, I, I, P, L]), "rondo_attention_take": (I, [P, L, I, P, P, L]),
    "rondo_attention_put": (I, [P, L, I, P, P, L]), "rondo_attention_scatter": (I, [P, L, I, I, P, P, L]),
    "rondo_attention_gather": (I, [P, L, I, I, P, P, L]), "rondo_attention_execute": (I, [P, P, P]),
    "rondo_attention_backward": (I, [P, P, P, P]),
    "rondo_attention_operation_text": (L, [P, L, P, Z]),
    "rondo_delta_way_name": (S, [I]), "rondo_delta_create": (I, [P, P, P]), "rondo_delta_destroy": (None, [P]),
    "rondo_delta_query": (I, [P, P]), "rondo_delta_execute": (I, [P, P]), "rondo_delta_backward": (I, [P, P, P]),
    "rondo_schedule_create": (I, [P, P, P]), "rondo_schedule_delta": (I, [P, P, P]), "rondo_schedule_destroy": (None, [P]), "rondo_schedule_query": (I, [P, P]),
    "rondo_schedule_rank": (I, [P, I, P]), "rondo_schedule_operation_text": (L, [P, I, L, P, Z]),
    "rondo_linear_create": (I, [P, P, P]), "rondo_linear_load_from": (I, [P, L, L, I, P, P]), "rondo_linear_destroy": (None, [P]),
    "rondo_linear_bytes": (Z, [P]), "rondo_linear_execute": (I, [P, P, L, P, L, P, L, P, I]),
    "rondo_rmsnorm": (I, [P, L, L, P, P, F, P]), "rondo_rope": (I, [P, L, L, L, P, L, L, P]), "rondo_swiglu": (I, [P, L, P, P, P]),
    "rondo_tokens_create": (I, [P, P]), "rondo_tokens_destroy": (None, [P]), "rondo_tokens_rows": (L, [P]),
    "rondo_linear_dx": (I, [P, P, L, P, L, I32, P, L, I]), "rondo_linear_dw": (I, [P, P, L, P, L, L, P, L, P, L, I]),
    "rondo_token_sum": (I, [P, P, L, P, L, P, I]), "rondo_lookup_dw": (I, [P, P, P, L, L, L, L, P, L, P, L, I]),
    "rondo_rmsnorm_dx": (I, [P, L, L, P, P, F, P, P, P, I]), "rondo_rope_dx": (I, [P, L, L, L, P, L, L, P]),
    "rondo_swiglu_dx": (I, [P, L, P, P, P, P, P]), "rondo_cross_entropy": (I, [P, P]), "rondo_token_loss": (I, [P, P, P, I32, P, P]),
    "rondo_share": (I, [L, I, P, I, P, P]), "rondo_tp_create": (I, [P, P, P]), "rondo_tp_destroy": (None, [P]),
    "rondo_tp_rows": (I, [P, L, I, P, P]), "rondo_tp_gather": (I, [P, L, L, P, P]),
    "rondo_tp_linear_dw": (I, [P, P, L, P, L, L, P, L, P, L, I]), "rondo_tp_token_sum": (I, [P, P, L, P, L, P, I]),
    "rondo_tp_lookup_dw": (I, [P, P, P, P, P, L, P, L, I]), "rondo_tp_token_loss": (I, [P, P, P, P, I32, P, P]),
}
