"""Networks by name. Each figure has its source; where it is a choice of ours, that is said.

What peers send each other goes through two of these links where there is an access point or a
base station, so one way is both; the bandwidth is that of each machine's own share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Gigabit Ethernet through a switch, full duplex (IEEE 802.3ab). A frame takes 38 bytes on the
    # line besides its 1500: header, checksum, preamble and gap; IPv4 and TCP take 52 of these. So
    # TCP carries 941 Mbit/s. The delay is a choice: a switch and two kernels.
    "lan": {
        "link": {"delay_s": 0.0002, "header_bytes": 90},
        "machine": {"up_mbit_s": 1000, "down_mbit_s": 1000},
    },
    # IEEE 802.11n, one stream, 20 MHz, short guard interval: 72.2 Mbit/s (MCS 7). Half of the
    # channel's rate is left to what it carries (Li et al., Capacity of Ad Hoc Wireless Networks,
    # MobiCom 2001, for one cell). All stations share the channel, and what one sends another goes
    # over the access point, through the channel twice: 18 Mbit/s. Delay and jitter are choices.
    "wifi": {
        "link": {"delay_s": 0.004, "jitter_s": 0.004},
        "machine": {"up_mbit_s": 18, "channel": "wifi"},
    },
    # Medians of 3,000 users of a public LTE network: 13 Mbit/s down, 6 up (Huang et al., A Close
    # Examination of Performance and Power Characteristics of 4G LTE Networks, MobiSys 2012). A
    # round trip from a phone to a server takes some 70 ms there, and so does one way from phone to
    # phone. The radio repairs losses: jitter, a choice.
    "lte": {
        "link": {"delay_s": 0.07, "jitter_s": 0.02},
        "machine": {"up_mbit_s": 6, "down_mbit_s": 13},
    },
    # LoRa at its fastest in Europe: SF7, 250 kHz, 11 kbit/s, 222 bytes of payload a frame besides
    # 13 of headers (LoRaWAN Regional Parameters, EU863-870, DR6). All share one channel. The duty
    # cycle of 1% that regulators ask for is NOT applied: times are those of a licensed channel, and
    # 100 times as long where it holds. TCP, which nobody runs over LoRa, would take more headers.
    "lora": {
        "link": {"delay_s": 0.05, "header_bytes": 13, "segment_bytes": 222},
        "machine": {"up_mbit_s": 0.011, "channel": "lora"},
    },
    # Ad-hoc IEEE 802.11 at its slowest OFDM rate, 6 Mbit/s, over several hops: a chain carries a
    # seventh of what one hop does (Li et al. 2001, as above). Delay, loss, outages and churn are
    # choices: people carry the devices about, and batteries run low.
    "mesh-disaster": {
        "link": {"delay_s": 0.03, "jitter_s": 0.03, "loss": 0.01},
        "machine": {"up_mbit_s": 0.86, "down_mbit_s": 0.86, "half_duplex": True},
        "random_outages": {"mean_between_s": 600, "mean_for_s": 30, "share": 0.5},
        "churn": {"mean_up_s": 3600, "mean_down_s": 300, "share": 0.3},
    },
}
