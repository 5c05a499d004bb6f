/* SPDX-License-Identifier: BSD-2-Clause
 *
 * libFuzzer entry point: any bytes as tokenizer.json. What opens must encode and decode; decoding must give UTF-8. See fuzz/README.
 */
#define _GNU_SOURCE
#include <string.h>

#include "fuzz/folder.h"
#include "rondo_lm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "And it came to pass, <s> caf\xc3\xa9 \xe4\xb8\xad \xe2\x96\x81 aab don't 123\r\n \xff";
    rondo_tokenizer *t = NULL;
    int32_t *ids = NULL, *again = NULL;
    int64_t count = 0;
    char *back = NULL;
    size_t bytes = 0;
    if (rondo_tokenizer_open(&t, folder_with("tokenizer.json", data, size)))
        return 0;
    if (!rondo_tokenizer_encode(t, text, sizeof text - 1, RONDO_ENCODE_SPECIAL | RONDO_ENCODE_LOSSY, &ids, &count)) {
        for (int64_t i = 0; i < count; i++)
            if (!rondo_tokenizer_piece(t, ids[i]))
                abort();
        if (!rondo_tokenizer_decode(t, ids, count, 0, &back, &bytes)) {
            int err = rondo_tokenizer_encode(t, back, bytes, 0, &again, &count);
            if (err && strstr(rondo_error_text(), "not UTF-8"))
                abort();
        }
    }
    rondo_lm_free(again);
    rondo_lm_free(back);
    rondo_lm_free(ids);
    rondo_tokenizer_close(t);
    return 0;
}
