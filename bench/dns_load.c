// Asks for one name over UDP from one core, with a bounded number of questions under way; prints good and bad answers.
// Usage: dns_load PORT SECONDS WINDOW OPTIONS(1: client subnet, 2: cookie, 3: both) NAME
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { BATCH = 64, SIZE = 1500 };
static uint8_t out[BATCH][SIZE], in[BATCH][SIZE];
static struct mmsghdr sends[BATCH], receives[BATCH];
static struct iovec out_parts[BATCH], in_parts[BATCH];
static uint64_t state = 88172645463325252ULL;

static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static size_t put_name(uint8_t *at, const char *name) {
  size_t used = 0;
  while (*name) {
    size_t label = strcspn(name, ".");
    at[used++] = (uint8_t)label;
    memcpy(at + used, name, label);
    used += label;
    name += label + (name[label] == '.');
  }
  at[used++] = 0;
  return used;
}

static size_t put_query(uint8_t *at, const char *name, int options) {
  uint64_t r = next_random();
  uint8_t head[12] = {r >> 8, r, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1};
  memcpy(at, head, 12);
  size_t used = 12 + put_name(at + 12, name);
  uint8_t rest[] = {0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0};
  rest[14] = (uint8_t)((options & 1 ? 11 : 0) + (options & 2 ? 12 : 0));
  memcpy(at + used, rest, sizeof rest);
  used += sizeof rest;
  if (options & 1) {
    // A random /24 within 16.0.0.0/4.
    uint8_t option[] = {0, 8, 0, 7, 0, 1, 24, 0, 16 + (r >> 40 & 15), r >> 32, r >> 24};
    memcpy(at + used, option, sizeof option);
    used += sizeof option;
  }
  if (options & 2) {
    uint8_t option[] = {0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8};
    memcpy(at + used, option, sizeof option);
    used += sizeof option;
  }
  return used;
}

int main(int count, char **words) {
  if (count != 6) return 2;
  int window = atoi(words[3]), options = atoi(words[4]);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int s = socket(AF_INET, SOCK_DGRAM, 0), buffer = 4 << 20;
  setsockopt(s, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  struct timeval patience = {0, 100000};
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to)) return 1;
  for (int i = 0; i < BATCH; i++) {
    out_parts[i] = (struct iovec){out[i], SIZE};
    in_parts[i] = (struct iovec){in[i], SIZE};
    sends[i].msg_hdr = (struct msghdr){.msg_iov = &out_parts[i], .msg_iovlen = 1};
    receives[i].msg_hdr = (struct msghdr){.msg_iov = &in_parts[i], .msg_iovlen = 1};
  }
  long good = 0, bad = 0, lost = 0;
  int under_way = 0;
  for (double end = now() + atof(words[2]); now() < end;) {
    int n = window - under_way < BATCH ? window - under_way : BATCH;
    for (int i = 0; i < n; i++) out_parts[i].iov_len = put_query(out[i], words[5], options);
    int sent = n > 0 ? sendmmsg(s, sends, (unsigned)n, 0) : 0;
    if (sent > 0) under_way += sent;
    int got = recvmmsg(s, receives, BATCH, MSG_WAITFORONE, NULL);
    if (got < 0) {
      lost += under_way;
      under_way = 0;
      continue;
    }
    under_way = under_way > got ? under_way - got : 0;
    for (int i = 0; i < got; i++) {
      if ((in[i][3] & 15) == 0 && in[i][7] > 0) good++; else bad++;
    }
  }
  printf("%ld %ld %ld\n", good, bad, lost);
  return 0;
}
