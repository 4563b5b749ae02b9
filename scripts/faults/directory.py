"""Others in the data directory: a second process, links, pipes, foreign files, a newer format."""

import json
import os
import shutil

from faults.case import fault
from faults.node import Node, Sender, words
from tailkeep_process import NotReady


def refused(node, what, word):
    """A start that must fail and name its reason."""
    process = node.start(ready=False)
    try:
        process.wait_ready(20)
        node.case.violations.append(f"it starts with {what}")
    except NotReady as error:
        node.case.expect(word in str(error), f"with {what} it does not say «{word}»: {error}")
        code = process.process.returncode
        node.case.expect(code == 1, f"with {what} it ends with {code}")
    process.kill()


@fault("W14", "a second process, links, pipes, foreign files and a newer format in the directory", "a second process ends with 1; nothing is followed or touched")
def others(case):
    node = Node(case)
    process = node.start()
    sender = Sender(node, process)
    for _ in range(50):
        sender.post()
    refused(node, "a second process", "another tailkeep")
    sender.post()
    process.kill()
    log = os.path.join(node.data, "log-00")
    outside = case.path("outside")
    with open(outside, "wb") as file:
        file.write(b"not ours" * 1000)
    before = open(outside, "rb").read()
    os.symlink(outside, os.path.join(log, "00000000000000ff.seg"))
    os.mkfifo(os.path.join(log, "00000000000000fe.seg"))
    os.mkdir(os.path.join(log, "00000000000000fd.seg"))
    for name in ("readme.txt", "0000000000000001.seg.bak", "x.seg", "é.seg"):
        shutil.copyfile(outside, os.path.join(log, name))
    # Where the next version of the identity would be written.
    os.replace(os.path.join(node.data, "node.new"), os.path.join(node.data, "node.before"))
    os.symlink(outside, os.path.join(node.data, "node.new"))
    process = node.start()
    sender = Sender(node, process)
    for _ in range(50):
        sender.post()
    node.settle(process)
    process.kill()
    foreign = [name for name in os.listdir(log) if name.endswith((".txt", ".bak")) or name in ("x.seg", "é.seg")]
    case.expect(len(foreign) == 4, f"foreign files went: {foreign} are left")
    case.expect(open(outside, "rb").read() == before, "a link was followed and written through")
    for name in ("lock", "node"):
        path = os.path.join(node.data, name)
        os.rename(path, path + ".aside")
        os.symlink(outside, path)
        refused(node, f"a link for {name}", name)
        os.rename(path + ".aside", path)
    path = os.path.join(node.data, "node")
    with open(path, encoding="utf-8") as file:
        sound = file.read()
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**json.loads(sound), "format": 99}, file)
    refused(node, "a newer format", "newer")
    with open(path, "w", encoding="utf-8") as file:
        file.write(sound)
    return f"4 starts refused by name, 8 foreign things left alone; {words(node.finish())}"
