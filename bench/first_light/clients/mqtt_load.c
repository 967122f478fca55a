/* One publisher and one subscriber in one process, over two sockets, with packets encoded ahead: a
 * client that costs less than any broker.
 *
 *   mqtt_load PORT TOPIC QOS COUNT WINDOW PAYLOAD_BYTES SECONDS
 *
 * A message counts against the window until the publisher's handshake has ended and the subscriber
 * has it, so that nothing is ever dropped for want of room. Prints one JSON object. Ends after COUNT
 * messages, or SECONDS and then at most DRAIN_S more for what is still on the way. Packet ids 1 to
 * 65535 in turn: with a window far below that none is in use twice. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES (1 << 20)
#define WINDOW_MAX 1024
#define PAYLOAD_MAX 4096
#define TOPIC_MAX 200
#define DRAIN_S 3.0

enum { PUBLISH = 3, PUBACK, PUBREC, PUBREL, PUBCOMP };

struct peer {
    int fd;
    size_t in_len, out_len, out_at;
    uint8_t in[BUFFER_BYTES], out[BUFFER_BYTES];
};

static struct peer publisher, subscriber;
static int qos;
static uint64_t sent, completed, delivered, duplicates;
static uint8_t packet[PAYLOAD_MAX + TOPIC_MAX + 16];
static size_t packet_len, packet_id_at;
/* QoS 2: ids that the subscriber has and whose PUBREL has not come. */
static uint8_t received[65536];

static void die(const char *what) {
    fprintf(stderr, "mqtt_load: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void append(struct peer *p, const uint8_t *data, size_t len) {
    if (p->out_len + len > BUFFER_BYTES) die("output buffer is full");
    memcpy(p->out + p->out_len, data, len);
    p->out_len += len;
}

static void append_ack(struct peer *p, int first, const uint8_t *id) {
    const uint8_t ack[4] = {(uint8_t)first, 2, id[0], id[1]};
    append(p, ack, sizeof ack);
}

static void flush_out(struct peer *p) {
    while (p->out_at < p->out_len) {
        ssize_t n = send(p->fd, p->out + p->out_at, p->out_len - p->out_at, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n < 0) die("send");
        p->out_at += (size_t)n;
    }
    p->out_at = p->out_len = 0;
}

static void on_publisher(int type, const uint8_t *body) {
    if (type == PUBREC)
        append_ack(&publisher, 0x62, body);
    else if (type == PUBACK || type == PUBCOMP)
        completed++;
}

static void on_subscriber(int first, const uint8_t *body, size_t len) {
    int type = first >> 4, level = (first >> 1) & 3;
    if (type == PUBREL && len >= 2) {
        received[body[0] << 8 | body[1]] = 0;
        append_ack(&subscriber, 0x70, body);
    }
    if (type != PUBLISH || len < 4) return;
    size_t id_at = 2u + (size_t)(body[0] << 8 | body[1]);
    if (level && id_at + 2 > len) die("a PUBLISH without an id");
    if (level == 1) append_ack(&subscriber, 0x40, body + id_at);
    if (level == 2) {
        append_ack(&subscriber, 0x50, body + id_at);
        uint8_t *seen = &received[body[id_at] << 8 | body[id_at + 1]];
        if (*seen) {
            duplicates++;
            return;
        }
        *seen = 1;
    }
    delivered++;
}

/* Cuts what is in the input buffer into packets. */
static void parse(struct peer *p) {
    size_t at = 0;
    for (;;) {
        size_t length = 0, i = at + 1;
        int shift = 0, whole = 0;
        while (i < p->in_len && shift < 28) {
            length |= (size_t)(p->in[i] & 0x7f) << shift;
            shift += 7;
            if (!(p->in[i++] & 0x80)) {
                whole = 1;
                break;
            }
        }
        if (!whole || i + length > p->in_len) break;
        if (p == &publisher && length >= 2)
            on_publisher(p->in[at] >> 4, p->in + i);
        else if (p == &subscriber)
            on_subscriber(p->in[at], p->in + i, length);
        at = i + length;
    }
    memmove(p->in, p->in + at, p->in_len - at);
    p->in_len -= at;
}

static void read_in(struct peer *p) {
    ssize_t n = recv(p->fd, p->in + p->in_len, BUFFER_BYTES - p->in_len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) die("recv");
    if (n == 0) {
        errno = 0;
        die(p == &publisher ? "the broker closed the publisher" : "the broker closed the subscriber");
    }
    p->in_len += (size_t)n;
    parse(p);
}

/* Writes `data` and waits for an answer of exactly `len` bytes. */
static void ask(int fd, const uint8_t *data, size_t size, const uint8_t *expected, size_t len) {
    uint8_t answer[8];
    if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) die("send");
    if (recv(fd, answer, len, MSG_WAITALL) != (ssize_t)len) die("no answer");
    if (memcmp(answer, expected, len) != 0) die("an unexpected answer");
}

static void open_session(struct peer *p, int port, const char *id) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {.tv_sec = 5};
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    uint8_t connect_packet[64] = {0x10, (uint8_t)(12 + strlen(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 2, 88, 0,
                                  (uint8_t)strlen(id)};
    memcpy(connect_packet + 14, id, strlen(id));
    const uint8_t connack[4] = {0x20, 2, 0, 0};
    ask(p->fd, connect_packet, 14 + strlen(id), connack, 4);
}

static void subscribe(const char *topic) {
    size_t len = strlen(topic);
    uint8_t request[TOPIC_MAX + 16];
    if (len > 120) die("the topic is too long");
    request[0] = 0x82;
    request[1] = (uint8_t)(len + 5);
    request[2] = 0, request[3] = 1, request[4] = 0, request[5] = (uint8_t)len;
    memcpy(request + 6, topic, len);
    request[6 + len] = (uint8_t)qos;
    const uint8_t suback[5] = {0x90, 3, 0, 1, (uint8_t)qos};
    ask(subscriber.fd, request, len + 7, suback, 5);
}

static void encode(const char *topic, size_t payload) {
    size_t topic_len = strlen(topic), length = 2 + topic_len + (qos ? 2 : 0) + payload;
    uint8_t *at = packet;
    *at++ = (uint8_t)(0x30 | qos << 1);
    do {
        *at++ = (uint8_t)((length & 0x7f) | (length > 0x7f ? 0x80 : 0));
        length >>= 7;
    } while (length);
    *at++ = 0;
    *at++ = (uint8_t)topic_len;
    memcpy(at, topic, topic_len);
    at += topic_len;
    packet_id_at = (size_t)(at - packet);
    at += qos ? 2 : 0;
    memset(at, 'x', payload);
    packet_len = (size_t)(at - packet) + payload;
}

static void publish_one(void) {
    uint64_t id = sent % 65535 + 1;
    if (qos) {
        packet[packet_id_at] = (uint8_t)(id >> 8);
        packet[packet_id_at + 1] = (uint8_t)id;
    }
    append(&publisher, packet, packet_len);
    sent++;
    if (!qos) completed++;
}

static double run(uint64_t count, uint64_t window, double seconds) {
    double began = now_s(), last = began;
    struct pollfd fds[2] = {{.fd = publisher.fd}, {.fd = subscriber.fd}};
    for (;;) {
        double now = now_s();
        uint64_t done = completed < delivered ? completed : delivered;
        int stopping = sent >= count || now - began > seconds;
        if (stopping && (done >= sent || now - began > seconds + DRAIN_S)) break;
        while (!stopping && sent < count && sent - done < window) publish_one();
        flush_out(&publisher);
        flush_out(&subscriber);
        fds[0].events = (short)(POLLIN | (publisher.out_len ? POLLOUT : 0));
        fds[1].events = (short)(POLLIN | (subscriber.out_len ? POLLOUT : 0));
        if (poll(fds, 2, 100) < 0 && errno != EINTR) die("poll");
        if (fds[0].revents) read_in(&publisher);
        if (fds[1].revents) read_in(&subscriber);
        if (fds[0].revents || fds[1].revents) last = now_s();
    }
    return last - began;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: mqtt_load PORT TOPIC QOS COUNT WINDOW PAYLOAD_BYTES SECONDS\n");
        return 2;
    }
    int port = atoi(argv[1]);
    uint64_t count = strtoull(argv[4], NULL, 10), window = strtoull(argv[5], NULL, 10);
    size_t payload = strtoull(argv[6], NULL, 10);
    double seconds = atof(argv[7]);
    char id[40];
    qos = atoi(argv[3]);
    errno = 0;
    if (qos < 0 || qos > 2 || window < 1 || window > WINDOW_MAX || payload > PAYLOAD_MAX ||
        strlen(argv[2]) > 120)
        die("an argument out of range");
    snprintf(id, sizeof id, "load-pub-%d", (int)getpid());
    open_session(&publisher, port, id);
    snprintf(id, sizeof id, "load-sub-%d", (int)getpid());
    open_session(&subscriber, port, id);
    subscribe(argv[2]);
    encode(argv[2], payload);
    if (fcntl(publisher.fd, F_SETFL, O_NONBLOCK) || fcntl(subscriber.fd, F_SETFL, O_NONBLOCK)) die("fcntl");
    double took = run(count, window, seconds);
    printf("{\"sent\": %llu, \"completed\": %llu, \"delivered\": %llu, \"duplicates\": %llu, \"seconds\": %.6f}\n",
           (unsigned long long)sent, (unsigned long long)completed, (unsigned long long)delivered,
           (unsigned long long)duplicates, took);
    return 0;
}
