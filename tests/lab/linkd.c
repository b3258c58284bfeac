// linkd: a wire with a rate, a one-way delay, loss and a finite buffer, for kernels without sch_netem.
//
//   linkd IF_A IF_B RATE_KBIT DELAY_US LOSS_PPM BUFFER_KIB
//
// Moves frames between two interfaces, one thread per direction. GSO super-frames are moved whole (PACKET_VNET_HDR)
// but charged for the frames they stand for. RATE_KBIT 0: unlimited. BUFFER_KIB 0: 50 ms of line time, at least 256 KiB.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_OVERHEAD = 24, MAX_FRAME = 1 << 18, FRAMES_PER_POLL = 64 }; // preamble, checksum and gap

struct packet {
  struct packet *next;
  uint64_t due; // when it leaves the wire, ns
  uint32_t length;
  uint8_t data[];
};

static int sockets[2];
static double ns_per_byte;
static uint64_t delay_ns, buffer_ns;
static uint32_t loss_ppm;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void deliver(int out, struct packet *p) {
  while (send(out, p->data, p->length, 0) < 0 && (errno == ENOBUFS || errno == EAGAIN)) {
    struct pollfd writable = {out, POLLOUT, 0};
    poll(&writable, 1, 1);
  }
  free(p);
}

static void *direction(void *arg) {
  long index = (long)arg;
  int in = sockets[index], out = sockets[!index];
  struct packet *head = NULL, *tail = NULL;
  uint64_t busy_until = 0; // when the line has sent all it was given
  unsigned seed = 77 + index;
  static __thread uint8_t buffer[MAX_FRAME];
  prctl(PR_SET_TIMERSLACK, 1);
  for (;;) {
    uint64_t t = now();
    while (head && head->due <= t) {
      struct packet *p = head;
      head = p->next;
      if (!head) tail = NULL;
      deliver(out, p);
      t = now();
    }
    struct timespec wait, *timeout = NULL;
    if (head) {
      uint64_t left = head->due - t;
      wait.tv_sec = left / 1000000000ull;
      wait.tv_nsec = left % 1000000000ull;
      timeout = &wait;
    }
    struct pollfd readable = {in, POLLIN, 0};
    if (ppoll(&readable, 1, timeout, 0) < 1) continue;
    for (int i = 0; i < FRAMES_PER_POLL; i++) {
      ssize_t n = recv(in, buffer, sizeof buffer, MSG_DONTWAIT);
      if (n <= 0) break;
      t = now();
      struct virtio_net_hdr *header = (void *)buffer;
      uint64_t length = n - sizeof *header, frames = 1;
      if (header->gso_size) {
        uint64_t payload = length - header->hdr_len;
        frames = (payload + header->gso_size - 1) / header->gso_size;
        if (!frames) frames = 1;
        length += (frames - 1) * header->hdr_len;
      }
      length += frames * FRAME_OVERHEAD;
      if (loss_ppm && (uint32_t)(rand_r(&seed) % 1000000) < loss_ppm * frames) continue;
      if (busy_until < t) busy_until = t;
      if (ns_per_byte > 0 && busy_until - t > buffer_ns) continue; // the buffer is full
      busy_until += (uint64_t)(length * ns_per_byte);
      struct packet *p = malloc(sizeof *p + n);
      if (!p) continue; // a lost frame
      p->next = NULL;
      p->due = busy_until + delay_ns;
      p->length = n;
      memcpy(p->data, buffer, n);
      if (tail) tail->next = p; else head = p;
      tail = p;
    }
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  double kbit = atof(argv[3]), buffer_kib = atof(argv[6]);
  delay_ns = atof(argv[4]) * 1000;
  loss_ppm = atoi(argv[5]);
  ns_per_byte = kbit > 0 ? 8e6 / kbit : 0;
  if (buffer_kib <= 0) {
    buffer_kib = kbit / 8 * 0.05 / 1.024;
    if (buffer_kib < 256) buffer_kib = 256;
  }
  buffer_ns = (uint64_t)(buffer_kib * 1024 * ns_per_byte);
  for (int i = 0; i < 2; i++) {
    int one = 1, big = 64 << 20;
    int s = sockets[i] = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(argv[1 + i])};
    if (s < 0 || setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) ||
        setsockopt(s, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) || bind(s, (void *)&address, sizeof address)) {
      perror("linkd");
      return 1;
    }
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big);
    setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
  }
  pthread_t other;
  pthread_create(&other, NULL, direction, (void *)1L);
  direction(NULL);
}
