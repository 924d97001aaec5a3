/* The node's side of the EdgeGuard serial link, version 1: docs/formats/serial-link.md.
 *
 * Portable C99 for microcontrollers: no heap, no standard library beyond <stdint.h>, <stddef.h> and <string.h>,
 * no assumption about byte order or alignment. About 4 KiB of code and 300 bytes of stack.
 *
 * A node keeps three things over a power cut: its id, its key, and the boot number, which it raises and stores
 * BEFORE it sends the first frame of a boot. A boot number that repeats makes every frame look like a replay.
 */
#ifndef EDGEGUARD_LINK_H
#define EDGEGUARD_LINK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EG_LINK_KEY_BYTES 32u
#define EG_LINK_MAX_FRAME_BYTES 256u /* COBS of at most 254 bytes, and the delimiter */
#define EG_LINK_UNKNOWN_STEERING INT32_MIN

typedef enum {
    EG_LINK_OK = 0,
    EG_LINK_BAD_ARGUMENT = 1, /* a null pointer, node id 0, or a buffer that is too small */
    EG_LINK_EXHAUSTED = 2     /* the frame counter is used up: restart with the next boot number */
} eg_link_status;

typedef struct {
    uint8_t key[EG_LINK_KEY_BYTES];
    uint32_t boot;
    uint32_t counter;
    uint16_t node_id;
    uint8_t exhausted;
} eg_link;

/* Start a boot. The caller has stored `boot` already, see above. */
eg_link_status eg_link_init(eg_link *link, uint16_t node_id, const uint8_t key[EG_LINK_KEY_BYTES], uint32_t boot);

/* Go on with another key; numbering goes on as well, so that nothing can be replayed across the change. */
eg_link_status eg_link_change_key(eg_link *link, const uint8_t key[EG_LINK_KEY_BYTES]);

/* Angular rate in 1e-7 rad/s and specific force in 1e-6 m/s^2; x forward, y left, z up.
 * Writes one frame with its delimiter to `out` (EG_LINK_MAX_FRAME_BYTES) and its size to `size`. */
eg_link_status eg_link_imu(eg_link *link, uint64_t time_us, const int32_t rate[3], const int32_t force[3],
                           uint8_t *out, size_t capacity, size_t *size);

/* Wheel speeds in 1e-6 m/s (front left, front right, rear left, rear right) and the road wheels' angle in 1e-7 rad,
 * left positive, or EG_LINK_UNKNOWN_STEERING. */
eg_link_status eg_link_wheels(eg_link *link, uint64_t time_us, const int32_t speed[4], int32_t steering,
                              uint8_t *out, size_t capacity, size_t *size);

/* Any message type, for types from 0x80 on. `size` of the payload is at most 222. */
eg_link_status eg_link_message(eg_link *link, uint64_t time_us, uint8_t type, const uint8_t *payload,
                               size_t payload_size, uint8_t *out, size_t capacity, size_t *size);

#ifdef __cplusplus
}
#endif
#endif
