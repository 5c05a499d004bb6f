/* SPDX-License-Identifier: BSD-2-Clause */
/* A program of 0.1 as C++, which initialises by macros, by hand and by order. */
#include <rondo.h>

#include <cstdio>
#include <vector>

namespace {

struct job {
    std::vector<float> q, out;
};

int body(rondo_context *rank, void *arg)
{
    job *j = static_cast<job *>(arg);
    rondo_attention_desc desc = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_tensor q = RONDO_TENSOR_INIT;
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    rondo_attention *plan = nullptr;

    desc.heads = desc.kv_heads = 2;
    desc.head_dim = 4;
    desc.tokens = 16;
    q.data = j->q.data();
    q.type = RONDO_F32;
    q.dims = 3;
    q.shape[0] = 16, q.shape[1] = 2, q.shape[2] = 4;
    q.stride[0] = 8, q.stride[1] = 4, q.stride[2] = 1;
    io.q = io.k = io.v = q;
    io.out = rondo_tensor_dense(j->out.data(), RONDO_F32, 3, q.shape);
    int code = rondo_attention_create(&plan, rank, &desc);
    if (!code)
        code = rondo_attention_execute(plan, &io, nullptr);
    if (!code)
        code = rondo_comm_query(rank, &stats);
    for (int i = 0; i < RONDO_OP_COUNT && !code; i++)
        if (stats.messages[i] || stats.bytes[i])
            code = RONDO_EINVAL;   /* alone there is nobody to write to */
    rondo_attention_destroy(plan);
    return code;
}

}

int main()
{
    job j = { std::vector<float>(128, 0.5f), std::vector<float>(128) };
    rondo_heuristic in = { 1280, 126720, 128, 8, 4, 2, 502e12, 26e9 };
    double thresholds[2];
    if (rondo_choose(&in, 5, thresholds) != RONDO_PASS_Q || rondo_run_threads(1, body, &j))
        return 1;
    for (float x : j.out)
        if (x != 0.5f)
            return 1;
    std::printf("done\n");
    return 0;
}
