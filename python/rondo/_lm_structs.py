# SPDX-License-Identifier: BSD-2-Clause
"""The structures, constants and functions of rondo_lm.h, as ctypes has them; t/8000-python-structs.t compares them as those of _structs.py."""
import ctypes as c

from ._structs import ALGORITHM_ROOM, D, I, I32, L, P, S, U64, Z, Pi32, Pi64, Sized

U32 = c.c_uint32

ENCODE_SPECIAL, ENCODE_LOSSY, ENCODE_PLAIN, DECODE_SPECIAL = 1, 2, 4, 1
LOGPROBS = 100
FINISH = {"RUNNING": 0, "FINISH_LENGTH": 1, "FINISH_EOS": 2, "FINISH_STOP": 3}
ARRAY_TYPES = {"F32": 1, "BF16": 2, "F16": 3, "F64": 4, "I64": 5, "I32": 6, "I16": 7, "I8": 8, "U64": 9, "U32": 10, "U16": 11, "U8": 12,
               "BOOL": 13, "OTHER": 14}

CONSTANTS = {"RONDO_ENCODE_SPECIAL": ENCODE_SPECIAL, "RONDO_ENCODE_LOSSY": ENCODE_LOSSY, "RONDO_ENCODE_PLAIN": ENCODE_PLAIN,
             "RONDO_DECODE_SPECIAL": DECODE_SPECIAL, "RONDO_LM_LOGPROBS": LOGPROBS}
CONSTANTS.update(("RONDO_" + name, value) for name, value in FINISH.items())
CONSTANTS.update(("RONDO_ARRAY_" + name, value) for name, value in ARRAY_TYPES.items())

Reading = c.CFUNCTYPE(None, P, U64, U64)          # progress of rondo_model_desc
Progress = c.CFUNCTYPE(I, P, L, L)                # of rondo_lm_desc
Logits = c.CFUNCTYPE(I, P, L, L, P, L)
Row = c.CFUNCTYPE(I, P, L, P)                     # logits of rondo_lm_score()


class rondo_array(c.Structure):
    _fields_ = [("name", S), ("type", I32), ("dims", I32), ("shape", Pi64), ("offset", U64), ("bytes", U64), ("spare", L * 4)]


class rondo_model_desc(Sized):
    _fields_ = [("struct_size", Z), ("tp_rank", I32), ("tp_ranks", I32), ("threads", I32), ("no_tokenizer", I32), ("progress", Reading),
                ("user", P), ("cp_rank", I32), ("cp_ranks", I32), ("shares", c.POINTER(D)), ("weights", I32), ("group", I32),
                ("level", I32), ("no_weights", I32)]


class rondo_model_info(Sized):
    _fields_ = [("struct_size", Z), ("architecture", S), ("rope", S)] + [(name, L) for name in (
        "layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocabulary", "max_positions", "window")] + [
        ("parameters", U64), ("weight_bytes", U64), ("bos", I32), ("tied", I32), ("eos", Pi32), ("eos_count", L), ("biases", I32),
        ("qk_norm", I32), ("kda_layers", L), ("kda_heads", L), ("kda_head_dim", L), ("conv_taps", I32), ("no_rope", I32)]


class rondo_estimate_desc(Sized):
    _fields_ = [("struct_size", Z), ("tp_ranks", I32), ("cp_ranks", I32), ("spread", I32), ("weights", I32), ("group", I32),
                ("kv_type", I32), ("shares", c.POINTER(D)), ("tokens", L), ("memory", U64), ("ranks", I32), ("reserved", I32),
                ("sequences", L)]


class rondo_estimate(Sized):
    _fields_ = [("struct_size", Z), ("weight_bytes", U64), ("kv_bytes", U64), ("all_weight_bytes", U64), ("all_kv_bytes", U64),
                ("kv_token_bytes", U64), ("fit_tp", I32), ("fit_cp", I32), ("state_bytes", U64), ("all_state_bytes", U64)]


class rondo_lm_desc(Sized):
    _fields_ = [("struct_size", Z), ("kv_type", I32), ("layout", I32), ("algorithm", I32), ("arithmetic", I32), ("level", I32),
                ("leaf", I32), ("interleave", I32), ("chunk", L), ("batch_tokens", L), ("progress", Progress), ("user", P),
                ("logits", Logits), ("logprobs", I32), ("reserved", I32)]


class rondo_sampling(Sized):
    _fields_ = [("struct_size", Z), ("temperature", D), ("top_p", D), ("min_p", D), ("repetition_penalty", D), ("top_k", L), ("seed", U64),
                ("max_tokens", L), ("ignore_eos", I32), ("reserved", I32), ("stops", c.POINTER(S)), ("stop_count", L)]


class rondo_lm_logprob(c.Structure):
    _fields_ = [("token", I32), ("reserved", I32), ("logprob", D)]


class rondo_lm_event(c.Structure):
    _fields_ = [("id", L), ("token", I32), ("finish", I32), ("text", P), ("text_bytes", Z), ("logprob", D),
                ("top", c.POINTER(rondo_lm_logprob)), ("spare", L * 2)]


class rondo_lm_status(Sized):
    _fields_ = [("struct_size", Z), ("prompt_tokens", L), ("new_tokens", L), ("finish", I32), ("reserved", I32), ("tokens", Pi32),
                ("text", P), ("text_bytes", Z), ("hash", U64)]


class rondo_lm_counters(Sized):
    _fields_ = [("struct_size", Z), ("prefill_tokens", L), ("decode_tokens", L), ("prefill_seconds", D), ("decode_seconds", D),
                ("prefill_algorithm", I32), ("decode_algorithm", I32), ("kv_bytes", Z), ("workspace_bytes", Z), ("first_tokens", L),
                ("first_seconds", D), ("steps", L), ("step_sequences", L), ("decode_bytes", U64), ("state_bytes", Z),
                ("prefill_chosen_by", I32), ("decode_chosen_by", I32), ("prefill_predicted", D * ALGORITHM_ROOM),
                ("decode_predicted", D * ALGORITHM_ROOM)]


class rondo_score(Sized):
    _fields_ = [("struct_size", Z), ("tokens", L), ("nll", D), ("hash", U64)]


STRUCTURES = [rondo_array, rondo_model_desc, rondo_model_info, rondo_estimate_desc, rondo_estimate, rondo_lm_desc, rondo_sampling,
              rondo_lm_logprob, rondo_lm_event, rondo_lm_status, rondo_lm_counters, rondo_score]

FUNCTIONS = {
    "rondo_lm_free": (None, [P]),
    "rondo_arrays_open": (I, [P, S]), "rondo_arrays_close": (None, [P]), "rondo_arrays_count": (L, [P]), "rondo_arrays_at": (P, [P, L]),
    "rondo_arrays_read": (I, [P, P, U64, U64, P]),
    "rondo_tokenizer_open": (I, [P, S]), "rondo_tokenizer_close": (None, [P]), "rondo_tokenizer_size": (I, [P]),
    "rondo_tokenizer_encode": (I, [P, S, Z, U32, P, P]), "rondo_tokenizer_decode": (I, [P, P, L, U32, P, P]),
    "rondo_tokenizer_piece": (S, [P, I32]), "rondo_tokenizer_id": (I, [P, S]), "rondo_tokenizer_is_special": (I, [P, I32]),
    "rondo_text_stream_create": (I, [P, P, U32]), "rondo_text_stream_destroy": (None, [P]), "rondo_text_stream_push": (I, [P, I32, P, P]),
    "rondo_model_open": (I, [P, P, S, P]), "rondo_model_close": (None, [P]), "rondo_model_query": (I, [P, P]),
    "rondo_model_tokenizer": (P, [P]), "rondo_model_estimate": (I, [S, P, P]),
    "rondo_lm_create": (I, [P, P, P, P]), "rondo_lm_destroy": (None, [P]), "rondo_lm_submit": (I, [P, P, L, P, P]),
    "rondo_lm_step": (L, [P, P, L, P]), "rondo_lm_query": (I, [P, L, P]), "rondo_lm_release": (I, [P, L]), "rondo_lm_count": (I, [P, P]),
    "rondo_lm_score": (I, [P, P, L, P, P, P]),
}
