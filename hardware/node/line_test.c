/* Drives the link from a script on stdin, for the tests that run it against the receiver in Python; also an example
 * of what a node's main loop does. One command per line:
 *
 *   start NODE BOOT KEY      imu TIME G G G A A A      wheels TIME V V V V ANGLE      raw TIME TYPE HEX      key KEY
 *   counter N
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "edgeguard_link.h"

static size_t from_hex(const char *text, uint8_t *out, size_t capacity)
{
    size_t size = 0;
    unsigned byte;

    while (size < capacity && sscanf(text + 2u * size, "%2x", &byte) == 1) {
        out[size++] = (uint8_t)byte;
    }
    return size;
}

int main(void)
{
    static char line[1024];
    static char word[600];
    uint8_t key[EG_LINK_KEY_BYTES];
    uint8_t payload[EG_LINK_MAX_FRAME_BYTES];
    uint8_t frame[EG_LINK_MAX_FRAME_BYTES];
    eg_link link;
    uint64_t time_us;
    uint32_t boot;
    uint16_t node;
    int32_t v[6];
    unsigned type;

    memset(&link, 0, sizeof link);
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t size = 0;
        eg_link_status status = EG_LINK_BAD_ARGUMENT;

        if (sscanf(line, "start %" SCNu16 " %" SCNu32 " %599s", &node, &boot, word) == 3) {
            (void)from_hex(word, key, sizeof key);
            status = eg_link_init(&link, node, key, boot);
            if (fputc(0, stdout) == EOF) {
                return 1;
            }
        } else if (sscanf(line, "imu %" SCNu64 " %" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNd32,
                          &time_us, &v[0], &v[1], &v[2], &v[3], &v[4], &v[5]) == 7) {
            status = eg_link_imu(&link, time_us, v, v + 3, frame, sizeof frame, &size);
        } else if (sscanf(line, "wheels %" SCNu64 " %" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNd32,
                          &time_us, &v[0], &v[1], &v[2], &v[3], &v[4]) == 6) {
            status = eg_link_wheels(&link, time_us, v, v[4], frame, sizeof frame, &size);
        } else if (sscanf(line, "raw %" SCNu64 " %x %599s", &time_us, &type, word) == 3) {
            status = eg_link_message(&link, time_us, (uint8_t)type, payload, from_hex(word, payload, sizeof payload),
                                     frame, sizeof frame, &size);
        } else if (sscanf(line, "key %599s", word) == 1) {
            (void)from_hex(word, key, sizeof key);
            status = eg_link_change_key(&link, key);
        } else if (sscanf(line, "counter %" SCNu32, &link.counter) == 1) {
            status = EG_LINK_OK;
        }
        if (status != EG_LINK_OK) {
            (void)fprintf(stderr, "status %d\n", (int)status);
        }
        if (fwrite(frame, 1, size, stdout) != size) {
            return 1;
        }
    }
    return 0;
}
