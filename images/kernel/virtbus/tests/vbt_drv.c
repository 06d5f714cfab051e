// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver of the devices that vbt_dev and vbt_twin make, with a log of its callbacks, and
 * references held on behalf of user space: /sys/kernel/debug/MODULE/.
 */
#include VBT_ADAPTER

#include <linux/atomic.h>
#include <linux/err.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "vbt_log.h"

static const struct vbt_id vbt_ids[] = {
	{ VBT_MATCH("vbt_dev_" VBT_NAME, "alpha"), 1 },
	{ VBT_MATCH("vbt_dev_" VBT_NAME, "beta"), 2 },
	{ VBT_MATCH("vbt_twin_" VBT_NAME, "alpha"), 3 },
	{ }
};

#ifdef VBT_DEVICE_TABLE
VBT_DEVICE_TABLE(vbt_ids);
#endif

/* Callbacks */

static atomic_t vbt_probes, vbt_removes, vbt_suspends, vbt_resumes, vbt_shutdowns;
static u32 vbt_probe_error;
static struct dentry *vbt_dir;

static int vbt_probe(struct vbt_drv *drv, struct vbt_dev *dev, const struct vbt_id *id)
{
	char what[24];

	atomic_inc(&vbt_probes);
	snprintf(what, sizeof(what), "probe %lu", id ? (unsigned long)id->driver_data : 0);
	vbt_log(dev_name(vbt_device(dev)), what);
	return -(int)READ_ONCE(vbt_probe_error);
}

static void vbt_remove(struct vbt_drv *drv, struct vbt_dev *dev)
{
	atomic_inc(&vbt_removes);
	vbt_log(dev_name(vbt_device(dev)), "remove");
}

static void vbt_suspend(struct vbt_drv *drv, struct vbt_dev *dev)
{
	atomic_inc(&vbt_suspends);
	vbt_log(dev_name(vbt_device(dev)), "suspend");
}

static void vbt_resume(struct vbt_drv *drv, struct vbt_dev *dev)
{
	atomic_inc(&vbt_resumes);
	vbt_log(dev_name(vbt_device(dev)), "resume");
}

static void vbt_shutdown(struct vbt_drv *drv, struct vbt_dev *dev)
{
	atomic_inc(&vbt_shutdowns);
	vbt_log(dev_name(vbt_device(dev)), "shutdown");
}

static struct vbt_drv vbt_drv = {
	.ids = vbt_ids,
	.probe = vbt_probe,
	.remove = vbt_remove,
	.suspend = vbt_suspend,
	.resume = vbt_resume,
	.shutdown = vbt_shutdown,
};

static int vbt_counters_show(struct seq_file *file, void *unused)
{
	seq_printf(file, "probe %d\nremove %d\nsuspend %d\nresume %d\nshutdown %d\n",
		   atomic_read(&vbt_probes), atomic_read(&vbt_removes), atomic_read(&vbt_suspends),
		   atomic_read(&vbt_resumes), atomic_read(&vbt_shutdowns));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vbt_counters);

/* References */

struct vbt_held {
	struct list_head node;
	struct device *device;
	struct delayed_work drop;
};

static LIST_HEAD(vbt_held);
static DEFINE_MUTEX(vbt_held_lock);
static struct workqueue_struct *vbt_timers;

/* Take a hold of that name, or any, out of the list. */
static struct vbt_held *vbt_take(const char *name)
{
	struct vbt_held *held, *found = NULL;

	mutex_lock(&vbt_held_lock);
	list_for_each_entry(held, &vbt_held, node) {
		if (!name || !strcmp(dev_name(held->device), name)) {
			list_del(&held->node);
			found = held;
			break;
		}
	}
	mutex_unlock(&vbt_held_lock);
	return found;
}

static void vbt_drop(struct vbt_held *held)
{
	put_device(held->device);
	kfree(held);
}

static void vbt_drop_later(struct work_struct *work)
{
	struct vbt_held *held = container_of(to_delayed_work(work), struct vbt_held, drop);
	struct vbt_held *listed;
	bool mine = false;

	mutex_lock(&vbt_held_lock);
	list_for_each_entry(listed, &vbt_held, node)
		mine |= listed == held;
	if (mine)
		list_del(&held->node);
	mutex_unlock(&vbt_held_lock);
	/* Otherwise vbt_put_one() has it, and waits for this to end. */
	if (mine)
		vbt_drop(held);
}

static void vbt_put_one(struct vbt_held *held)
{
	cancel_delayed_work_sync(&held->drop);
	vbt_drop(held);
}

/* "DEVNAME [MS]": hold a reference, until put or for so long. */
static int vbt_hold(char *line)
{
	char *name = strsep(&line, " ");
	unsigned int ms = 0;
	struct vbt_held *held;

	if (line && kstrtouint(strim(line), 10, &ms))
		return -EINVAL;
	held = kzalloc(sizeof(*held), GFP_KERNEL);
	if (!held)
		return -ENOMEM;
	held->device = bus_find_device_by_name(vbt_driver(&vbt_drv)->bus, NULL, name);
	if (!held->device) {
		kfree(held);
		return -ENODEV;
	}
	INIT_DELAYED_WORK(&held->drop, vbt_drop_later);
	mutex_lock(&vbt_held_lock);
	list_add_tail(&held->node, &vbt_held);
	if (ms)
		queue_delayed_work(vbt_timers, &held->drop, msecs_to_jiffies(ms));
	mutex_unlock(&vbt_held_lock);
	return 0;
}

/* "DEVNAME" or "all" */
static int vbt_put(char *line)
{
	bool all = !strcmp(line, "all");
	struct vbt_held *held = vbt_take(all ? NULL : line);

	if (!held)
		return all ? 0 : -ENODEV;
	do
		vbt_put_one(held);
	while (all && (held = vbt_take(NULL)));
	return 0;
}

VBT_COMMAND(vbt_hold, vbt_hold);
VBT_COMMAND(vbt_put, vbt_put);

static int __init vbt_drv_init_module(void)
{
	int ret;

	vbt_timers = alloc_workqueue(VBT_MOD, WQ_UNBOUND, 0);
	if (!vbt_timers)
		return -ENOMEM;
	ret = vbt_drv_register(&vbt_drv);
	if (ret) {
		destroy_workqueue(vbt_timers);
		return ret;
	}
	vbt_dir = debugfs_create_dir(VBT_MOD, NULL);
	debugfs_create_file("log", 0600, vbt_dir, NULL, &vbt_log_fops);
	debugfs_create_file("counters", 0400, vbt_dir, NULL, &vbt_counters_fops);
	debugfs_create_file("hold", 0200, vbt_dir, NULL, &vbt_hold_fops);
	debugfs_create_file("put", 0200, vbt_dir, NULL, &vbt_put_fops);
	debugfs_create_u32("probe_error", 0600, vbt_dir, &vbt_probe_error);
	return 0;
}
module_init(vbt_drv_init_module);

static void __exit vbt_drv_exit_module(void)
{
	char all[] = "all";

	debugfs_remove_recursive(vbt_dir);
	vbt_put(all);
	vbt_drv_unregister(&vbt_drv);
	destroy_workqueue(vbt_timers);
}
module_exit(vbt_drv_exit_module);

MODULE_DESCRIPTION("Driver for conformance tests");
MODULE_LICENSE("GPL");
