#include "edgeguard_link.h"

#include <string.h>

#define VERSION 1u
#define TYPE_IMU 0x01u
#define TYPE_WHEELS 0x02u
#define HEADER_BYTES 20u
#define CRC_BYTES 4u
#define TAG_BYTES 8u
#define MAX_BODY_BYTES 254u
#define MAX_PAYLOAD_BYTES (MAX_BODY_BYTES - HEADER_BYTES - CRC_BYTES - TAG_BYTES)
#define SHA_BLOCK 64u
#define SHA_BYTES 32u

/* ---- SHA-256, FIPS 180-4, and HMAC, RFC 2104 ------------------------------------------------------------------- */

typedef struct {
    uint32_t state[8];
    uint32_t total; /* bytes; a link frame is far below 2^29 */
    uint8_t block[SHA_BLOCK];
} sha256;

static const uint32_t K[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};

static uint32_t rotate(uint32_t word, unsigned by) { return (word >> by) | (word << (32u - by)); }

static void sha256_compress(uint32_t state[8], const uint8_t block[SHA_BLOCK])
{
    uint32_t w[64];
    uint32_t v[8];
    unsigned i;

    for (i = 0; i < 16u; i++) {
        w[i] = (uint32_t)block[4u * i] << 24 | (uint32_t)block[4u * i + 1u] << 16 |
               (uint32_t)block[4u * i + 2u] << 8 | (uint32_t)block[4u * i + 3u];
    }
    for (; i < 64u; i++) {
        const uint32_t a = w[i - 15u];
        const uint32_t b = w[i - 2u];
        w[i] = w[i - 16u] + (rotate(a, 7) ^ rotate(a, 18) ^ (a >> 3)) + w[i - 7u] +
               (rotate(b, 17) ^ rotate(b, 19) ^ (b >> 10));
    }
    memcpy(v, state, sizeof v);
    for (i = 0; i < 64u; i++) {
        const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
        const uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[i] + w[i];
        const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
        const uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        v[7] = v[6];
        v[6] = v[5];
        v[5] = v[4];
        v[4] = v[3] + t1;
        v[3] = v[2];
        v[2] = v[1];
        v[1] = v[0];
        v[0] = t1 + t2;
    }
    for (i = 0; i < 8u; i++) {
        state[i] += v[i];
    }
}

static void sha256_begin(sha256 *hash)
{
    static const uint32_t initial[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                        0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
    memcpy(hash->state, initial, sizeof initial);
    hash->total = 0;
}

static void sha256_add(sha256 *hash, const uint8_t *data, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++) {
        hash->block[hash->total % SHA_BLOCK] = data[i];
        hash->total++;
        if (hash->total % SHA_BLOCK == 0u) {
            sha256_compress(hash->state, hash->block);
        }
    }
}

static void sha256_end(sha256 *hash, uint8_t digest[SHA_BYTES])
{
    const uint32_t bits = hash->total * 8u;
    uint8_t length[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    const uint8_t one = 0x80;
    const uint8_t zero = 0;
    unsigned i;

    for (i = 0; i < 4u; i++) {
        length[4u + i] = (uint8_t)(bits >> (24u - 8u * i));
    }
    sha256_add(hash, &one, 1);
    while (hash->total % SHA_BLOCK != 56u) {
        sha256_add(hash, &zero, 1);
    }
    sha256_add(hash, length, sizeof length);
    for (i = 0; i < SHA_BYTES; i++) {
        digest[i] = (uint8_t)(hash->state[i / 4u] >> (24u - 8u * (i % 4u)));
    }
}

static void link_tag(const uint8_t key[EG_LINK_KEY_BYTES], const uint8_t *covered, size_t size, uint8_t tag[TAG_BYTES])
{
    static const uint8_t context[] = "edgeguard link v1"; /* its terminating zero is part of it */
    uint8_t pad[SHA_BLOCK];
    uint8_t digest[SHA_BYTES];
    sha256 hash;
    unsigned i;

    memset(pad, 0x36, sizeof pad);
    for (i = 0; i < EG_LINK_KEY_BYTES; i++) {
        pad[i] = (uint8_t)(key[i] ^ 0x36u);
    }
    sha256_begin(&hash);
    sha256_add(&hash, pad, sizeof pad);
    sha256_add(&hash, context, sizeof context);
    sha256_add(&hash, covered, size);
    sha256_end(&hash, digest);
    for (i = 0; i < SHA_BLOCK; i++) {
        pad[i] = (uint8_t)(pad[i] ^ (0x36u ^ 0x5cu));
    }
    sha256_begin(&hash);
    sha256_add(&hash, pad, sizeof pad);
    sha256_add(&hash, digest, sizeof digest);
    sha256_end(&hash, digest);
    memcpy(tag, digest, TAG_BYTES);
}

/* ---- CRC-32 (ISO-HDLC), little-endian fields, COBS ------------------------------------------------------------- */

static uint32_t crc32(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    size_t i;
    unsigned bit;

    for (i = 0; i < size; i++) {
        crc ^= data[i];
        for (bit = 0; bit < 8u; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0u ? 0xedb88320u : 0u);
        }
    }
    return crc ^ 0xffffffffu;
}

static void put(uint8_t *to, uint64_t value, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++) {
        to[i] = (uint8_t)(value >> (8u * i));
    }
}

static size_t cobs(const uint8_t *data, size_t size, uint8_t *out)
{
    size_t code = 0; /* where the length of the current group goes */
    size_t end = 1;
    size_t i;

    for (i = 0; i < size; i++) {
        if (data[i] == 0u) {
            out[code] = (uint8_t)(end - code);
            code = end++;
        } else {
            out[end++] = data[i]; /* a body of 254 bytes at most never fills a group: see the format */
        }
    }
    out[code] = (uint8_t)(end - code);
    return end;
}

/* ---- frames ---------------------------------------------------------------------------------------------------- */

eg_link_status eg_link_init(eg_link *link, uint16_t node_id, const uint8_t key[EG_LINK_KEY_BYTES], uint32_t boot)
{
    if (link == NULL || key == NULL || node_id == 0u) {
        return EG_LINK_BAD_ARGUMENT;
    }
    memcpy(link->key, key, EG_LINK_KEY_BYTES);
    link->boot = boot;
    link->counter = 0;
    link->node_id = node_id;
    link->exhausted = 0;
    return EG_LINK_OK;
}

eg_link_status eg_link_change_key(eg_link *link, const uint8_t key[EG_LINK_KEY_BYTES])
{
    if (link == NULL || key == NULL) {
        return EG_LINK_BAD_ARGUMENT;
    }
    memcpy(link->key, key, EG_LINK_KEY_BYTES);
    return EG_LINK_OK;
}

eg_link_status eg_link_message(eg_link *link, uint64_t time_us, uint8_t type, const uint8_t *payload,
                               size_t payload_size, uint8_t *out, size_t capacity, size_t *size)
{
    uint8_t body[MAX_BODY_BYTES];
    size_t used = HEADER_BYTES;

    if (link == NULL || out == NULL || size == NULL || (payload == NULL && payload_size > 0u) ||
        payload_size > MAX_PAYLOAD_BYTES || capacity < payload_size + HEADER_BYTES + CRC_BYTES + TAG_BYTES + 2u) {
        return EG_LINK_BAD_ARGUMENT;
    }
    if (link->exhausted != 0u) {
        return EG_LINK_EXHAUSTED;
    }
    body[0] = VERSION;
    body[1] = type;
    put(body + 2, link->node_id, 2);
    put(body + 4, link->boot, 4);
    put(body + 8, link->counter, 4);
    put(body + 12, time_us, 8);
    if (payload_size > 0u) {
        memcpy(body + used, payload, payload_size);
        used += payload_size;
    }
    put(body + used, crc32(body, used), CRC_BYTES);
    link_tag(link->key, body, used, body + used + CRC_BYTES);
    used += CRC_BYTES + TAG_BYTES;
    used = cobs(body, used, out);
    out[used++] = 0;
    *size = used;
    link->exhausted = link->counter == UINT32_MAX;
    link->counter++;
    return EG_LINK_OK;
}

eg_link_status eg_link_imu(eg_link *link, uint64_t time_us, const int32_t rate[3], const int32_t force[3],
                           uint8_t *out, size_t capacity, size_t *size)
{
    uint8_t payload[24];
    unsigned i;

    if (rate == NULL || force == NULL) {
        return EG_LINK_BAD_ARGUMENT;
    }
    for (i = 0; i < 3u; i++) {
        put(payload + 4u * i, (uint32_t)rate[i], 4);
        put(payload + 12u + 4u * i, (uint32_t)force[i], 4);
    }
    return eg_link_message(link, time_us, TYPE_IMU, payload, sizeof payload, out, capacity, size);
}

eg_link_status eg_link_wheels(eg_link *link, uint64_t time_us, const int32_t speed[4], int32_t steering,
                              uint8_t *out, size_t capacity, size_t *size)
{
    uint8_t payload[20];
    unsigned i;

    if (speed == NULL) {
        return EG_LINK_BAD_ARGUMENT;
    }
    for (i = 0; i < 4u; i++) {
        put(payload + 4u * i, (uint32_t)speed[i], 4);
    }
    put(payload + 16, (uint32_t)steering, 4);
    return eg_link_message(link, time_us, TYPE_WHEELS, payload, sizeof payload, out, capacity, size);
}
