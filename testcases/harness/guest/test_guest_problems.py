"""Kernel problems on a console, in the words of the kernels that print them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest.problems import ProblemKind, ProblemWatch, recognise

# One line for each form that kernels 5.10 to 7.2 print, by the kind that it announces.
ANNOUNCEMENTS: dict[ProblemKind, tuple[str, ...]] = {
    ProblemKind.PANIC: (
        "Kernel panic - not syncing: sysrq triggered crash",
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
        "PANIC: early exception 0x0e IP 10:ffffffff81000123 error 0 cr2 0x10",
    ),
    ProblemKind.OOPS: (
        "BUG: kernel NULL pointer dereference, address: 0000000000000010",
        "BUG: unable to handle page fault for address: ffffc90000000000",
        "BUG: unable to handle kernel NULL pointer dereference at 0000000000000010",
        "Oops: 0002 [#1] SMP NOPTI",
        "Oops: Oops: 0002 [#1] SMP NOPTI",
        "Oops: 0000 [#2] PREEMPT SMP PTI",
        "general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP NOPTI",
        "Oops: general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP",
        "divide error: 0000 [#1] SMP",
        "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        "Oops: invalid opcode: 0000 [#1] SMP",
        "stack segment: 0000 [#1] SMP",
        "traps: PANIC: double fault, error_code: 0x0",
        "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008",
        "Unable to handle kernel paging request at virtual address ffff800010000000",
        "Internal error: Oops: 96000004 [#1] SMP",
        "Internal error: Oops: 0000000096000004 [#1]  SMP",
        "Internal error: Oops - BUG: 00000000f2000800 [#1] PREEMPT SMP",
        "Internal error: synchronous external abort: 0000000096000210 [#1] SMP",
        "Oops [#1]",
        "Oops - illegal instruction [#1]",
        "Kernel BUG [#1]",
        "kernel BUG [#2]",
    ),
    ProblemKind.BUG: (
        "kernel BUG at mm/slub.c:4021!",
        "kernel BUG at drivers/iommu/iova.c:55!",
        "kernel BUG at iova_magazine_alloc+0x12/0x40 [verbose debug info unavailable]",
        "Kernel BUG at broken+0x5/0x10 [virtio_iommu] [verbose debug info unavailable]",
        "BUG: Bad page state in process cat  pfn:12345",
        "BUG: Bad page map in process sh  pte:800000010abc pmd:01234067",
        "BUG: Bad rss-counter state mm:00000000f00dcafe type:MM_FILEPAGES val:1",
        "BUG: scheduling while atomic: modprobe/77/0x00000002",
        "BUG: sleeping function called from invalid context at mm/slab.h:494",
        "BUG: spinlock bad magic on CPU#0, swapper/0/1",
        "BUG: workqueue leaked atomic, lock or RCU: kworker/0:1[12]",
        "BUG: using smp_processor_id() in preemptible [00000000] code: init/1",
        "BUG: TASK stack guard page was hit at 00000000abcdef01 (stack is 0..0)",
    ),
    ProblemKind.KASAN: (
        "BUG: KASAN: slab-out-of-bounds in vfio_dma_do_map+0x1f0/0x400",
        "BUG: KASAN: slab-use-after-free in edu_irq+0x10/0x20 [edu]",
        "BUG: KFENCE: use-after-free read in iommu_unmap+0x20/0x50",
        "BUG: KFENCE: memory corruption in kfree+0x1/0x2",
        "BUG: KMSAN: uninit-value in virtqueue_add+0x21d8/0x2b70",
        "BUG: KCSAN: data-race in add_timer / timer_clear_idle",
    ),
    ProblemKind.SANITIZER: (
        "UBSAN: array-index-out-of-bounds in drivers/iommu/intel/dmar.c:120:3",
        "UBSAN: shift-out-of-bounds in ./include/linux/log2.h:57:13",
        "UBSAN: signed-integer-overflow in lib/test.c:10:2",
    ),
    ProblemKind.LOCKUP: (
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [swapper/0:1]",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/u8:3:58]",
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 2",
        "watchdog: Watchdog detected hard LOCKUP on cpu 0",
        "watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 0",
    ),
    ProblemKind.STALL: (
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-...D } 21 jiffies s: 33 root: 0x1/.",
        "INFO: rcu_tasks detected stalls on tasks:",
        "INFO: rcu_tasks_trace detected stalls on tasks:",
    ),
    ProblemKind.HUNG_TASK: (
        "INFO: task modprobe:77 blocked for more than 120 seconds.",
        "INFO: task kworker/u4:1:25 blocked for more than 241 seconds.",
        "INFO: task dd:91 blocked in I/O wait for more than 122 seconds.",
        "INFO: task tmux: server:400 blocked for more than 120 seconds.",
        "INFO: task cat:12 is blocked on a mutex likely owned by task dd:11.",
        "INFO: task cat:12 <writer> blocked on an rw-semaphore likely owned by task dd:11 <reader>",
    ),
    ProblemKind.OUT_OF_MEMORY: (
        "Out of memory: Killed process 80 (python3) total-vm:120000kB, anon-rss:90000kB, file-rss:0kB",
        "Out of memory (oom_kill_allocating_task): Killed process 80 (python3) total-vm:1kB",
        "Memory cgroup out of memory: Killed process 80 (python3) total-vm:120000kB",
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task=python3,pid=80,uid=0",
        "python3 invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0",
        "insmod: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL), nodemask=(null)",
    ),
    ProblemKind.LOCKDEP: (
        "WARNING: possible circular locking dependency detected",
        "WARNING: possible recursive locking detected",
        "WARNING: possible irq lock inversion dependency detected",
        "WARNING: inconsistent lock state",
        "WARNING: bad unlock balance detected!",
        "WARNING: suspicious RCU usage",
        "WARNING: held lock freed!",
        "WARNING: lock held when returning to user space!",
        "WARNING: init/1 still has locks held!",
        "WARNING: Nested lock was not taken",
        "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
        "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
        "[ BUG: Invalid wait context ]",
        "INFO: trying to register non-static key.",
    ),
    ProblemKind.WARN: (
        "WARNING: CPU: 0 PID: 1 at drivers/iommu/dma-iommu.c:841 __iommu_dma_unmap+0x150/0x160",
        "WARNING: CPU: 3 PID: 58 at viommu_unmap_pages+0x8/0x20 [virtio_iommu]",
        "WARNING: drivers/iommu/dma-iommu.c:841 at __iommu_dma_unmap+0x150/0x160, CPU#0: init/1",
        "WARNING: [!unmapped] drivers/iommu/dma-iommu.c:841 at __iommu_dma_unmap+0x150/0x160, CPU#0: init/1",
        "WARNING: [a < b && c] kernel/x.c:1 at f+0x1/0x2 [virtio_iommu], CPU#12: kworker/0:1/33",
        "WARNING: at viommu_detach_dev+0x10/0x90, CPU#1: modprobe/77",
    ),
}
ALL = [pytest.param(line, kind, id=line[:40]) for kind, lines in ANNOUNCEMENTS.items() for line in lines]

HARMLESS = (
    "",
    "ACPI BIOS Error (bug): Could not resolve symbol [\\_SB.PCI0], AE_NOT_FOUND (20240827/psargs-332)",
    "ACPI Error: No handler for Region [ECRM] (00000000) [EmbeddedControl] (20240827/evregion-131)",
    "random: crng init done",
    "Warning: unable to open an initial console.",
    "WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!",
    "WARNING: BIOS bug: CPU MTRRs don't cover all of memory, losing 3MB of RAM.",
    "WARNING: possible configuration problem, see the manual",
    "RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks possible!",
    "process: WARNING: polling idle and HT enabled, performance may degrade",
    "udevd[55]: WARNING: CPU: 0 PID: 1 at home",
    "init: WARNING: service at port 22, CPU#1 is slow",
    "[Firmware Bug]: TSC_DEADLINE disabled due to Errata; please update microcode",
    "traps: python3[81] general protection fault ip:7f0011 sp:7ffd00 error:0 in libc.so.6[7f0000+1000]",
    "python3[81]: segfault at 0 ip 00007f0011 sp 00007ffd00 error 4 in libc.so.6[7f0000+1000]",
    "DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault addr 0x1000 [fault reason 0x05] not set",
    "rcu: INFO: Stall ended before state dump start",
    "INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.234 msecs",
    "perf: interrupt took too long (2504 > 2500), lowering kernel.perf_event_max_sample_rate to 79750",
    "virtio_blk virtio1: [vda] 2048 512-byte logical blocks",
    "EXT4-fs (vda): error count since last fsck: 3",
    "usb 1-1: device descriptor read/64, error -71",
    "fix applied for issue [#12]",
    "---[ end Kernel panic - not syncing: sysrq triggered crash ]---",
    "---[ end trace 0000000000000000 ]---",
    "------------[ cut here ]------------",
)


@pytest.mark.parametrize(("line", "kind"), ALL)
@pytest.mark.parametrize(
    "start",
    [
        "",
        "[    1.234567] ",
        "[12345.678901][    T1] ",
        "[    1.234567][ T1234] ",
        "[    0.5][   C0] ",
        "~ # [    9.000000] ",
    ],
)
def test_announcement_is_recognised_however_its_line_starts(line: str, kind: ProblemKind, start: str) -> None:
    assert recognise(start + line) is kind


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_line_is_no_problem(line: str) -> None:
    assert recognise(line) is None
    assert recognise(f"[    1.234567] {line}") is None


def test_every_kind_has_an_announcement() -> None:
    assert set(ANNOUNCEMENTS) == set(ProblemKind)


@pytest.mark.parametrize("release", ["6.12", "7.2"])
def test_boot_log_of_a_healthy_kernel_has_no_problem(release: str) -> None:
    log = (Path(__file__).parent / "boot_logs" / f"{release}.txt").read_text()
    assert len(log.splitlines()) > 50
    assert [line for line in log.splitlines() if recognise(line)] == []


def test_panic_after_a_prompt_without_newline_is_recognised() -> None:
    assert recognise("guest:/# Kernel panic - not syncing: Fatal exception") is ProblemKind.PANIC


@given(st.text())
def test_no_text_makes_recognise_raise(line: str) -> None:
    recognise(line)


def test_line_is_looked_at_to_a_thousand_characters() -> None:
    panic = "Kernel panic - not syncing: x"
    assert recognise(" " * (1000 - len(panic)) + panic) is ProblemKind.PANIC
    assert recognise(" " * 1000 + panic) is None


def _watch(*lines: str) -> ProblemWatch:
    watch = ProblemWatch()
    for line in lines:
        watch.feed(line)
    return watch


WARN = ANNOUNCEMENTS[ProblemKind.WARN][0]
OOPS = ANNOUNCEMENTS[ProblemKind.OOPS][0]
PANIC = ANNOUNCEMENTS[ProblemKind.PANIC][0]


def test_oops_of_several_announcements_is_one_problem() -> None:
    watch = _watch(
        "BUG: kernel NULL pointer dereference, address: 0", "#PF: x", "Oops: Oops: 0002 [#1] SMP", "RIP: 0010:f"
    )
    assert [problem.kind for problem in watch.problems] == [ProblemKind.OOPS]


def test_panic_within_an_oops_is_a_problem_of_its_own() -> None:
    assert [problem.kind for problem in _watch(OOPS, PANIC).problems] == [ProblemKind.OOPS, ProblemKind.PANIC]


def test_oops_within_the_lines_of_a_warning_is_a_problem_of_its_own() -> None:
    watch = _watch(WARN, "Call Trace:", OOPS)
    assert [problem.kind for problem in watch.problems] == [ProblemKind.WARN, ProblemKind.OOPS]
    assert watch.fatal is not None
    assert watch.fatal.kind is ProblemKind.OOPS


def test_two_lines_before_and_forty_from_the_announcement_on_are_kept() -> None:
    watch = _watch("a", "b", "c", WARN, *(f"trace {n}" for n in range(60)))
    (problem,) = watch.problems
    assert problem.text.splitlines() == ["b", "c", WARN, *(f"trace {n}" for n in range(39))]
    assert problem.line == WARN


def test_second_warning_after_the_first_ones_lines_is_told() -> None:
    watch = _watch(WARN, *["x"] * 39, WARN)
    assert len(watch.problems) == 2


@pytest.mark.parametrize("kind", ProblemKind)
def test_problem_is_fatal_unless_the_kernel_goes_on(kind: ProblemKind) -> None:
    goes_on = {
        ProblemKind.WARN,
        ProblemKind.LOCKDEP,
        ProblemKind.SANITIZER,
        ProblemKind.OUT_OF_MEMORY,
        ProblemKind.STALL,
    }
    watch = _watch(ANNOUNCEMENTS[kind][0])
    assert (watch.fatal is None) == (kind in goes_on)


def test_guest_that_warns_for_ever_fills_no_memory() -> None:
    watch = _watch(*[WARN + "x" * 5000, *["y" * 5000] * 40] * 300)
    assert len(watch.problems) == 100
    assert sum(len(problem.text) for problem in watch.problems) < 100 * 43 * 1001


def test_fatal_problem_is_told_after_any_number_of_warnings() -> None:
    watch = _watch(*[WARN, *["y"] * 40] * 150, OOPS)
    assert watch.fatal is not None
    assert watch.fatal.line == OOPS
