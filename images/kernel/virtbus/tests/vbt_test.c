// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conformance tests of a bus that matches devices and drivers by name, written against the adapter
 * in VBT_ADAPTER. They run when the module is loaded, each in a thread of its own, so that one that
 * oopses is a failed test, and report in KTAP on the kernel log.
 */
#include VBT_ADAPTER

#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/wait.h>

/*
 * How long nothing is released before releases are given up: with DEBUG_KOBJECT_RELEASE each comes
 * up to 4 s late, and machines may be slow.
 */
#define VBT_RELEASE_STALL (10 * HZ)
#define VBT_MANY 2000

static char *only;
module_param(only, charp, 0444);
MODULE_PARM_DESC(only, "run only these tests, by id, separated by commas");

static unsigned int limit = 300;
module_param(limit, uint, 0444);
MODULE_PARM_DESC(limit, "seconds that each test may take");

/*
 * Why the tests have a tenth of the limit, when the thread of one has died: it may hold locks for
 * good, so those that follow may not end, which is then no fault of theirs.
 */
static char vbt_died[64];

struct vbt_test {
	const char *id;
	const char *words;
	void (*run)(struct vbt_test *t);
	bool asked;	/* runs only when named in the parameter */
	bool failed;
	const char *skip;
	struct completion done;
	/* Set by the first to say that the test is over: itself, or who waited for it. */
	atomic_t over;
};

#define vbt_say(t, fmt, ...) pr_info("# %s: " fmt "\n", (t)->id, ##__VA_ARGS__)

#define vbt_fail(t, fmt, ...) ({					\
	(t)->failed = true;						\
	vbt_say(t, "vbt_test.c:%d: " fmt, __LINE__, ##__VA_ARGS__);	\
})

#define vbt_expect(t, condition, fmt, ...) ({				\
	bool __ok = (condition);					\
	if (!__ok)							\
		vbt_fail(t, fmt, ##__VA_ARGS__);			\
	__ok;								\
})

#define vbt_expect_eq(t, seen, expected) ({				\
	long __seen = (seen), __want = (expected);			\
	vbt_expect(t, __seen == __want, "%s is %ld, expected %ld",	\
		   #seen, __seen, __want);				\
})

/* Devices and their parents */

static struct device *vbt_parents[2];
static atomic_t vbt_made, vbt_released;
static DECLARE_WAIT_QUEUE_HEAD(vbt_release_seen);

/*
 * Of the running test. A late release of what a failed test has left must not count for the next.
 */
static unsigned long vbt_generation;

static void vbt_count_release(unsigned long generation)
{
	if (generation == READ_ONCE(vbt_generation))
		atomic_inc(&vbt_released);
	wake_up_all(&vbt_release_seen);
}

static void vbt_free(struct vbt_dev *dev)
{
	unsigned long generation = dev->generation;

	kfree(dev);
	vbt_count_release(generation);
}

static struct vbt_dev *vbt_alloc(struct device *parent)
{
	struct vbt_dev *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	memset(dev->canary, 0xa5, sizeof(dev->canary));
	dev->generation = vbt_generation;
	dev->parent = parent;
	dev->release = vbt_free;
	return dev;
}

/* Init alone; after an error nothing is left. */
static struct vbt_dev *vbt_init(const char *mod, const char *name, struct device *parent)
{
	struct vbt_dev *dev = vbt_alloc(parent);
	int ret;

	if (!dev)
		return ERR_PTR(-ENOMEM);
	ret = vbt_dev_init(dev, mod, name);
	if (ret) {
		kfree(dev);
		return ERR_PTR(ret);
	}
	atomic_inc(&vbt_made);
	return dev;
}

static struct vbt_dev *vbt_make_as(const char *mod, const char *name, struct device *parent)
{
	struct vbt_dev *dev = vbt_init(mod, name, parent);
	int ret;

	if (IS_ERR(dev))
		return dev;
	ret = vbt_dev_add(dev);
	if (ret) {
		vbt_dev_put(dev);
		return ERR_PTR(ret);
	}
	return dev;
}

static struct vbt_dev *vbt_make(const char *name)
{
	return vbt_make_as(VBT_MOD, name, vbt_parents[0]);
}

static void vbt_unmake(struct vbt_dev *dev)
{
	if (IS_ERR_OR_NULL(dev))
		return;
	vbt_dev_del(dev);
	vbt_dev_put(dev);
}

static int vbt_alive(void)
{
	return atomic_read(&vbt_made) - atomic_read(&vbt_released);
}

static void vbt_expect_alive(struct vbt_test *t, int expected)
{
	/* A test that has failed already need not wait for what will not come. */
	long patience = t->failed ? HZ : VBT_RELEASE_STALL;
	int released;

	do {
		released = atomic_read(&vbt_released);
		wait_event_timeout(vbt_release_seen, vbt_alive() == expected, patience);
	} while (vbt_alive() != expected && atomic_read(&vbt_released) != released);
	vbt_expect(t, vbt_alive() == expected, "%d devices made, %d released, %d should be left",
		   atomic_read(&vbt_made), atomic_read(&vbt_released), expected);
}

static void vbt_expect_released(struct vbt_test *t)
{
	vbt_expect_alive(t, 0);
}

static void vbt_copy_name(char *name, size_t size, struct vbt_dev *dev)
{
	strscpy(name, dev_name(vbt_device(dev)) ?: "(null)", size);
}

/*
 * Which name the next device gets: its number is the lowest that is free. Asked while another
 * device of the same name lives, or else the numbers may just begin anew.
 */
static bool vbt_next_name(struct vbt_test *t, char *name, size_t size)
{
	struct vbt_dev *dev = vbt_make("alpha");
	int alive = vbt_alive() - 1;

	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0))
		return false;
	vbt_copy_name(name, size, dev);
	vbt_unmake(dev);
	vbt_expect_alive(t, alive);
	return !t->failed;
}

/* For some seconds, because a number may become free a moment after release was called. */
static void vbt_expect_next_name(struct vbt_test *t, const char *expected)
{
	unsigned long end = jiffies + 5 * HZ;
	char name[80];

	while (vbt_next_name(t, name, sizeof(name)) && strcmp(name, expected)) {
		if (!vbt_expect(t, time_before(jiffies, end), "the next device is %s, expected %s",
				name, expected))
			break;
		msleep(20);
	}
}

/* Drivers */

/*
 * A driver and what happened to it. Not on the stack of a test: the driver is still known when its
 * test has died.
 */
struct vbt_record {
	struct vbt_drv drv;
	char name[24];
	bool registered;
	/* what probe does */
	int error;
	void *drvdata;
	/* what was seen */
	struct vbt_dev *dev;
	const struct vbt_id *id;
	unsigned long data;
	int suspends, resumes, shutdowns;
};

static struct vbt_record *vbt_record(struct vbt_drv *drv)
{
	return container_of(drv, struct vbt_record, drv);
}

static int vbt_probe(struct vbt_drv *drv, struct vbt_dev *dev, const struct vbt_id *id)
{
	struct vbt_record *rec = vbt_record(drv);

	drv->probes++;
	rec->dev = dev;
	rec->id = id;
	rec->data = id ? id->driver_data : 0;
	if (rec->drvdata)
		dev_set_drvdata(vbt_device(dev), rec->drvdata);
	return rec->error;
}

static void vbt_remove(struct vbt_drv *drv, struct vbt_dev *dev)
{
	drv->removes++;
}

static void vbt_count_suspend(struct vbt_drv *drv, struct vbt_dev *dev)
{
	vbt_record(drv)->suspends++;
}

static void vbt_count_resume(struct vbt_drv *drv, struct vbt_dev *dev)
{
	vbt_record(drv)->resumes++;
}

static void vbt_count_shutdown(struct vbt_drv *drv, struct vbt_dev *dev)
{
	vbt_record(drv)->shutdowns++;
}

/* A driver that is not registered yet; NULL is a failure of the test. */
static struct vbt_record *vbt_driver_new(struct vbt_test *t, const struct vbt_id *ids)
{
	struct vbt_record *rec = kzalloc(sizeof(*rec), GFP_KERNEL);

	if (!vbt_expect(t, rec, "no memory"))
		return NULL;
	rec->drv.ids = ids;
	rec->drv.probe = vbt_probe;
	rec->drv.remove = vbt_remove;
	return rec;
}

/*
 * With DEBUG_KOBJECT_RELEASE a driver's name is taken for seconds after its end, so each has its
 * own.
 */
static int vbt_driver_add(struct vbt_record *rec)
{
	static unsigned int number;
	int ret;

	snprintf(rec->name, sizeof(rec->name), "driver%u", ++number);
	rec->drv.name = rec->name;
	ret = vbt_drv_register(&rec->drv);
	rec->registered = !ret;
	return ret;
}

/* Unregister a driver if it is, and keep its record. */
static void vbt_driver_del(struct vbt_record *rec)
{
	if (rec && rec->registered)
		vbt_drv_unregister(&rec->drv);
	if (rec)
		rec->registered = false;
}

static void vbt_driver_free(struct vbt_record *rec)
{
	vbt_driver_del(rec);
	kfree(rec);
}

static const struct vbt_id vbt_alpha[] = {
	{ VBT_MATCH(VBT_MOD, "alpha"), 11 },
	{ }
};

static bool vbt_bound(struct vbt_dev *dev)
{
	return vbt_device(dev)->driver;
}

/* Like an administrator's echo into bind. Returns whether it is bound after that. */
static bool vbt_attach(struct vbt_dev *dev)
{
	return device_attach(vbt_device(dev)) == 1;
}

/* Tests */

static void vbt_R01(struct vbt_test *t)
{
	struct vbt_dev *dev = vbt_make("alpha");
	char *path, *above;

	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0))
		return;
	path = kobject_get_path(&vbt_device(dev)->kobj, GFP_KERNEL);
	above = kobject_get_path(&vbt_parents[0]->kobj, GFP_KERNEL);
	if (vbt_expect(t, path && above, "no memory"))
		vbt_expect(t, strstarts(path, above) && path[strlen(above)] == '/',
			   "%s is not below %s", path, above);
	kfree(path);
	kfree(above);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_R01_orphan(struct vbt_test *t)
{
	struct vbt_dev *dev = vbt_make_as(VBT_MOD, "alpha", NULL);

	vbt_expect(t, IS_ERR(dev), "a device without parent was accepted");
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_R04(struct vbt_test *t)
{
	struct vbt_record *first = vbt_driver_new(t, vbt_alpha);
	struct vbt_record *second = vbt_driver_new(t, NULL);
	struct vbt_id *table = kmemdup(vbt_alpha, sizeof(vbt_alpha), GFP_KERNEL);
	struct vbt_dev *dev = vbt_make("alpha");
	void *before = NULL, *now;
	size_t size;

	vbt_expect(t, table && !IS_ERR(dev), "no device");
	if (t->failed)
		goto out;
	table[0].driver_data = 22;
	second->drv.ids = table;
	vbt_expect_eq(t, vbt_driver_add(first), 0);
	vbt_expect_eq(t, first->data, 11);
	now = vbt_dev_private(dev, &size);
	before = kmemdup(now, size, GFP_KERNEL);

	/* The core asks for a match although the device is bound. */
	vbt_expect_eq(t, vbt_driver_add(second), 0);
	vbt_expect_eq(t, second->drv.probes, 0);
	if (vbt_expect(t, before, "no memory"))
		vbt_expect(t, !memcmp(before, now, size),
			   "the match of another driver changed the bound device");
	vbt_expect(t, vbt_bound_id(dev, first->id) == vbt_alpha,
		   "the device's entry is no longer that of its driver's table");
	vbt_driver_del(second);
	memset(table, 0x6b, sizeof(vbt_alpha));
	kfree(table);
	table = NULL;
	/* With KASAN, this reads freed memory if the match left a pointer. */
	vbt_expect_eq(t, vbt_bound_id(dev, first->id)->driver_data, 11);
out:
	vbt_driver_free(second);
	vbt_driver_free(first);
	kfree(table);
	kfree(before);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_R06(struct vbt_test *t)
{
	static const char expected[] = "MODALIAS=" VBT_ALIAS VBT_MATCH(VBT_MOD, "alpha");
	struct kobj_uevent_env *env = kzalloc(sizeof(*env), GFP_KERNEL);
	struct vbt_dev *dev = vbt_make("alpha");
	bool found = false;
	int i;

	if (!vbt_expect(t, env && !IS_ERR(dev), "no device"))
		return;
	if (vbt_expect(t, vbt_device(dev)->bus->uevent, "the bus adds nothing to uevents")) {
		vbt_expect_eq(t, vbt_device(dev)->bus->uevent(vbt_device(dev), env), 0);
		for (i = 0; i < env->envp_idx; i++) {
			found |= !strcmp(env->envp[i], expected);
			vbt_say(t, "%s", env->envp[i]);
		}
		vbt_expect(t, found, "no %s", expected);
	}
	kfree(env);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

#ifdef CONFIG_FAULT_INJECTION
/* Make a device while its nth allocation fails. Returns whether there was such an allocation. */
static bool vbt_fail_nth(struct vbt_test *t, unsigned int n,
			 int (*judge)(struct vbt_test *t, struct vbt_dev *dev))
{
	struct vbt_dev *dev;
	bool used_up;

	current->fail_nth = n;
	dev = vbt_make("alpha");
	used_up = !current->fail_nth;
	current->fail_nth = 0;
	if (judge(t, dev))
		vbt_say(t, "that was with allocation %u failing", n);
	vbt_unmake(dev);
	return used_up;
}

/*
 * Make devices while their first allocation fails, their second, and so on, until no failure was
 * left to be used up. Each some times, for which allocation is the nth depends on what others have
 * left.
 */
static void vbt_fail_each(struct vbt_test *t, int (*judge)(struct vbt_test *t, struct vbt_dev *dev))
{
	unsigned int n = 0, failed, total = 0;
	int i;

	do {
		n++;
		failed = 0;
		for (i = 0; i < 4; i++)
			failed += vbt_fail_nth(t, n, judge);
		total += failed;
	} while (failed && n < 1000);
	if (total)
		vbt_say(t, "%u allocations failed, up to the %uth", total, n - 1);
	else
		t->skip = "N in debugfs' failslab/ignore-gfp-wait lets allocations fail";
}

/* A number that is in use says that something was left. */
static int vbt_judge_nothing(struct vbt_test *t, struct vbt_dev *dev)
{
	return 0;
}

static int vbt_judge_error(struct vbt_test *t, struct vbt_dev *dev)
{
	if (IS_ERR(dev))
		return !vbt_expect_eq(t, PTR_ERR(dev), -ENOMEM);
	return !vbt_expect(t, dev_name(vbt_device(dev)) && strstarts(dev_name(vbt_device(dev)),
			   VBT_MATCH(VBT_MOD, "alpha")), "a device without its name was added");
}

static void vbt_R07(struct vbt_test *t)
{
	struct vbt_dev *anchor = vbt_make("alpha");
	char name[80];

	if (!vbt_next_name(t, name, sizeof(name)))
		return;
	vbt_fail_each(t, vbt_judge_nothing);
	vbt_expect_alive(t, 1);
	vbt_expect_next_name(t, name);
	vbt_unmake(anchor);
	vbt_expect_released(t);
}

static void vbt_U05(struct vbt_test *t)
{
	struct vbt_dev *anchor = vbt_make("alpha");

	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(anchor), 0))
		return;
	vbt_fail_each(t, vbt_judge_error);
	vbt_unmake(anchor);
	vbt_expect_released(t);
}
#else
static void vbt_R07(struct vbt_test *t)
{
	t->skip = "the kernel has no fault injection";
}

#define vbt_U05 vbt_R07
#endif

static void vbt_R08(struct vbt_test *t)
{
	struct vbt_dev *anchor = vbt_make("alpha"), *dev;
	struct kobject *block;
	char name[80];

	if (!vbt_next_name(t, name, sizeof(name)))
		return;
	block = kobject_create_and_add(name, &vbt_parents[0]->kobj);
	if (!vbt_expect(t, block, "%s cannot be blocked", name))
		return;
	dev = vbt_make("alpha");
	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), -EEXIST);
	vbt_unmake(dev);
	vbt_expect_alive(t, 1);
	/* At once, also with DEBUG_KOBJECT_RELEASE. */
	kobject_del(block);
	kobject_put(block);
	vbt_expect_next_name(t, name);
	vbt_unmake(anchor);
	vbt_expect_released(t);
}

static void vbt_R09(struct vbt_test *t)
{
	struct vbt_dev *anchor = vbt_make("alpha"), *dev = vbt_make("alpha"), *next;
	struct device *held;
	char name[80];

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(anchor), 0);
	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0))
		return;
	held = get_device(vbt_device(dev));
	vbt_copy_name(name, sizeof(name), dev);
	vbt_unmake(dev);
	next = vbt_make("alpha");
	if (vbt_expect_eq(t, PTR_ERR_OR_ZERO(next), 0))
		vbt_expect(t, strcmp(dev_name(vbt_device(next)), name),
			   "%s is used again while a reference to the first is held", name);
	vbt_unmake(next);
	put_device(held);
	vbt_expect_alive(t, 1);
	vbt_expect_next_name(t, name);
	vbt_unmake(anchor);
	vbt_expect_released(t);
}

static void vbt_R10(struct vbt_test *t)
{
	struct vbt_dev **many = kvcalloc(VBT_MANY, sizeof(*many), GFP_KERNEL);
	struct vbt_dev *anchor = vbt_make("alpha");
	char name[80];
	int i, made;

	if (!vbt_expect(t, many, "no memory") || !vbt_next_name(t, name, sizeof(name)))
		return;
	for (made = 0; made < VBT_MANY; made++) {
		many[made] = vbt_make("alpha");
		if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(many[made]), 0))
			break;
		cond_resched();
	}
	vbt_say(t, "%d devices at once", made);
	for (i = 0; i < made; i++)
		vbt_unmake(many[i]);
	kvfree(many);
	vbt_expect_alive(t, 1);
	vbt_expect_next_name(t, name);
	vbt_unmake(anchor);
	vbt_expect_released(t);
}

/* Keeps the memory, so that the test can see who writes to it. */
static void vbt_keep(struct vbt_dev *dev)
{
	memset(&dev->bus, 0x5a, sizeof(dev->bus));
	vbt_count_release(dev->generation);
}

static void vbt_R11(struct vbt_test *t)
{
	struct vbt_dev *dev = vbt_make("alpha");

	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0))
		return;
	dev->release = vbt_keep;
	vbt_unmake(dev);
	vbt_expect_released(t);
	if (t->failed)
		return;
	/* Time for what still runs after release. */
	msleep(100);
	vbt_expect(t, !memchr_inv(&dev->bus, 0x5a, sizeof(dev->bus)),
		   "the device was written to after its release");
	kfree(dev);
}

static void vbt_R14(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	struct vbt_dev *dev = vbt_make("alpha");

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	drv->drvdata = drv;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	vbt_expect(t, drv->dev == dev && !memchr_inv(dev->canary, 0xa5, sizeof(dev->canary)),
		   "probe does not get to the structure that embeds the device");
	vbt_expect(t, dev_get_drvdata(vbt_device(dev)) == drv, "driver data is lost");
	device_release_driver(vbt_device(dev));
	vbt_expect(t, !dev_get_drvdata(vbt_device(dev)), "driver data is left after unbinding");
out:
	vbt_driver_free(drv);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_R14_release(struct vbt_test *t)
{
	struct vbt_dev *dev = vbt_alloc(vbt_parents[0]);

	if (!vbt_expect(t, dev, "no memory"))
		return;
	dev->release = NULL;
	/* What was accepted is left alone: it cannot be put. */
	if (vbt_expect(t, vbt_dev_init(dev, VBT_MOD, "alpha") < 0,
		       "a device without release function was accepted"))
		kfree(dev);
}

static void vbt_R15(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	char *name = kstrdup("alpha", GFP_KERNEL);
	struct vbt_dev *dev;

	if (!vbt_expect(t, name, "no memory"))
		return;
	dev = vbt_make(name);
	memset(name, 'x', strlen(name));
	kfree(name);
	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	vbt_expect(t, vbt_bound(dev), "%s does not match once the creator's string is gone",
		   dev_name(vbt_device(dev)));
out:
	vbt_driver_free(drv);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_R16(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	struct vbt_dev *mine = vbt_make("alpha");
	struct vbt_dev *other = vbt_make_as("vbt_other", "alpha", vbt_parents[0]);

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(mine), 0);
	vbt_expect_eq(t, PTR_ERR_OR_ZERO(other), 0);
	if (t->failed)
		goto out;
	vbt_say(t, "%s and %s", dev_name(vbt_device(mine)), dev_name(vbt_device(other)));
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	vbt_expect(t, vbt_bound(mine), "the driver for this module's device did not bind");
	vbt_expect(t, !vbt_bound(other), "it bound another module's device as well");
out:
	vbt_driver_free(drv);
	vbt_unmake(mine);
	vbt_unmake(other);
	vbt_expect_released(t);
}

static void vbt_R16_stable(struct vbt_test *t)
{
	struct vbt_dev *others[2];
	char name[80];
	int i;

	if (!vbt_next_name(t, name, sizeof(name)))
		return;
	for (i = 0; i < ARRAY_SIZE(others); i++)
		others[i] = vbt_make_as("vbt_other", "alpha", vbt_parents[0]);
	vbt_expect_next_name(t, name);
	for (i = 0; i < ARRAY_SIZE(others); i++)
		vbt_unmake(others[i]);
	vbt_expect_released(t);
}

/*
 * What the core calls for each device when the system suspends, resumes and shuts down. It holds
 * the device's lock; here nobody else is about, and a callback that dies would keep it.
 */
static void vbt_power_cycle(struct device *device)
{
	const struct dev_pm_ops *pm = device->bus->pm;

	int (*const calls[])(struct device *device) = {
		pm ? pm->suspend : NULL, pm ? pm->resume : NULL,
		pm ? pm->freeze : NULL, pm ? pm->thaw : NULL,
		pm ? pm->poweroff : NULL, pm ? pm->restore : NULL,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(calls); i++)
		if (calls[i])
			calls[i](device);
	if (device->bus->suspend)
		device->bus->suspend(device, PMSG_SUSPEND);
	if (device->bus->resume)
		device->bus->resume(device);
	if (device->bus->shutdown)
		device->bus->shutdown(device);
}

static void vbt_R17(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	struct vbt_dev *dev = vbt_make("alpha");

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	drv->drv.remove = NULL;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	vbt_expect(t, vbt_bound(dev), "a driver with nothing but probe does not bind");
	vbt_power_cycle(vbt_device(dev));
out:
	vbt_driver_free(drv);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_R17_calls(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	struct vbt_dev *dev = vbt_make("alpha");
	const struct dev_pm_ops *pm;

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	drv->drv.suspend = vbt_count_suspend;
	drv->drv.resume = vbt_count_resume;
	drv->drv.shutdown = vbt_count_shutdown;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	pm = vbt_device(dev)->bus->pm;
	device_lock(vbt_device(dev));
	if (vbt_expect(t, vbt_device(dev)->bus->shutdown, "the bus has no shutdown"))
		vbt_device(dev)->bus->shutdown(vbt_device(dev));
	vbt_expect_eq(t, drv->shutdowns, 1);
	/* A bus without dev_pm_ops leaves it to the core to call the driver's. */
	if (pm && pm->suspend && pm->resume) {
		pm->suspend(vbt_device(dev));
		pm->resume(vbt_device(dev));
		vbt_expect_eq(t, drv->suspends, 1);
		vbt_expect_eq(t, drv->resumes, 1);
	}
	device_unlock(vbt_device(dev));
out:
	vbt_driver_free(drv);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_R25(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	struct vbt_dev *devs[2];

	devs[0] = vbt_make_as(VBT_MOD, "alpha", vbt_parents[0]);
	devs[1] = vbt_make_as(VBT_MOD, "alpha", vbt_parents[1]);
	vbt_expect_eq(t, PTR_ERR_OR_ZERO(devs[0]), 0);
	vbt_expect_eq(t, PTR_ERR_OR_ZERO(devs[1]), 0);
	if (t->failed)
		goto out;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	vbt_expect_eq(t, drv->drv.probes, 2);
	device_release_driver(vbt_device(devs[0]));
	vbt_expect_eq(t, drv->drv.removes, 1);
	vbt_expect(t, vbt_bound(devs[1]), "unbinding one device unbound the other");
	vbt_driver_del(drv);
	vbt_expect_eq(t, drv->drv.removes, 2);
out:
	vbt_driver_free(drv);
	vbt_unmake(devs[0]);
	vbt_unmake(devs[1]);
	vbt_expect_released(t);
}

static void vbt_R27(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	struct vbt_dev *dev = vbt_make("alpha");
	int i;

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	for (i = 0; i < 200; i++) {
		device_release_driver(vbt_device(dev));
		if (!vbt_expect(t, vbt_attach(dev), "round %d: not bound again", i))
			break;
	}
	vbt_driver_del(drv);
	vbt_expect_eq(t, drv->drv.probes, 201);
	vbt_expect_eq(t, drv->drv.removes, 201);
out:
	vbt_driver_free(drv);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_U01(struct vbt_test *t)
{
	struct vbt_dev *dev = vbt_make("alpha");

	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0))
		return;
	vbt_power_cycle(vbt_device(dev));
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_U02(struct vbt_test *t)
{
	struct vbt_record *drv = vbt_driver_new(t, vbt_alpha);
	struct device_driver *driver;

	if (t->failed)
		return;
	driver = vbt_driver(&drv->drv);
	drv->drv.shutdown = vbt_count_shutdown;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	/* The condition under which driver_register() says "needs updating". */
	vbt_expect(t, !(driver->bus->probe && driver->probe) &&
		   !(driver->bus->remove && driver->remove) &&
		   !(driver->bus->shutdown && driver->shutdown),
		   "bus and device_driver both have the same callback");
	vbt_driver_free(drv);
}

static void vbt_U03(struct vbt_test *t)
{
	struct vbt_dev *dev = vbt_make("alpha");
	unsigned long end = jiffies + 5 * HZ;
	struct device *held;

	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0))
		return;
	held = get_device(vbt_device(dev));
	vbt_unmake(dev);
	while (kref_read(&held->kobj.kref) != 1 && time_before(jiffies, end))
		msleep(20);
	vbt_expect_eq(t, kref_read(&held->kobj.kref), 1);
	put_device(held);
	vbt_expect_released(t);
}

static void vbt_U04(struct vbt_test *t)
{
	struct vbt_dev *dev = vbt_init(VBT_MOD, "alpha", vbt_parents[0]), *next;
	int released = atomic_read(&vbt_released);

	if (!vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0))
		return;
	vbt_dev_put(dev);
	vbt_expect_released(t);
	vbt_expect_eq(t, atomic_read(&vbt_released), released + 1);
	/* After a failed init the memory is the creator's: no release. */
	next = vbt_init(VBT_MOD, NULL, vbt_parents[0]);
	vbt_expect(t, IS_ERR(next), "a device without name was accepted");
	msleep(100);
	vbt_expect_eq(t, atomic_read(&vbt_released), released + 1);
}

static void vbt_U06(struct vbt_test *t)
{
	static const struct vbt_id ids[] = {
		{ VBT_MATCH(VBT_MOD, "alpha"), 1 },
		{ },
		{ VBT_MATCH(VBT_MOD, "beyond"), 2 },
		{ }
	};
	struct vbt_record *drv = vbt_driver_new(t, ids);
	struct vbt_dev *dev = vbt_make("beyond");

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	vbt_expect_eq(t, vbt_driver_add(drv), 0);
	vbt_expect(t, !vbt_bound(dev), "an entry behind the end of the table matched");
out:
	vbt_driver_free(drv);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

/* ``drv`` has room for two entries of ids. */
static void vbt_try_length(struct vbt_test *t, struct vbt_record *drv, struct vbt_id *ids,
			   int length)
{
	static const char prefix[] = VBT_MATCH(VBT_MOD, "");
	bool fits = strlen(prefix) + length < sizeof(ids[0].name);
	char *name = kzalloc(length + 1, GFP_KERNEL);
	struct vbt_dev *dev;

	if (!vbt_expect(t, name, "no memory"))
		return;
	memset(name, 'n', length);
	dev = vbt_make(name);
	if (fits) {
		snprintf(ids[0].name, sizeof(ids[0].name), "%s%s", prefix, name);
		vbt_expect_eq(t, vbt_driver_add(drv), 0);
		vbt_expect(t, !IS_ERR(dev) && vbt_bound(dev),
			   "a name of %d characters fits into a table and does not match", length);
		vbt_driver_del(drv);
	} else {
		vbt_expect(t, IS_ERR(dev),
			   "a name of %d characters was accepted and fits into no table", length);
	}
	vbt_unmake(dev);
	vbt_expect_released(t);
	kfree(name);
}

static void vbt_U07(struct vbt_test *t)
{
	int max = sizeof_field(struct vbt_id, name) - sizeof(VBT_MATCH(VBT_MOD, ""));
	struct vbt_id *ids = kcalloc(2, sizeof(*ids), GFP_KERNEL);
	struct vbt_record *drv = vbt_driver_new(t, ids);
	int lengths[] = { 19, 20, 40, max, max + 1, 200 };
	int i;

	vbt_expect(t, ids, "no memory");
	for (i = 0; i < ARRAY_SIZE(lengths) && !t->failed; i++)
		vbt_try_length(t, drv, ids, lengths[i]);
	vbt_driver_free(drv);
	kfree(ids);
}

static void vbt_U07_entry(struct vbt_test *t)
{
	struct vbt_id *ids = kcalloc(2, sizeof(*ids), GFP_KERNEL);
	struct vbt_record *drv = vbt_driver_new(t, ids);
	struct vbt_dev *dev = vbt_make("alpha");

	vbt_expect(t, ids && !IS_ERR(dev), "no device");
	if (t->failed)
		goto out;
	/* A name without its NUL: a comparison reads on into driver_data. */
	memset(ids[0].name, 'n', sizeof(ids[0].name));
	ids[0].driver_data = ~0UL;
	vbt_expect(t, vbt_driver_add(drv), "a table with a name that has no end was accepted");
out:
	vbt_driver_free(drv);
	kfree(ids);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_U08(struct vbt_test *t)
{
	static const char * const names[] = { NULL, "", "a/b", "a.b", "a b", "a*", "a\n" };
	struct vbt_dev *dev;
	int i;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		dev = vbt_make(names[i]);
		vbt_expect(t, IS_ERR(dev), "the name \"%s\" was accepted", names[i] ?: "(null)");
		vbt_unmake(dev);
	}
	vbt_expect_released(t);
}

static void vbt_U09(struct vbt_test *t)
{
	struct vbt_record *no_probe = vbt_driver_new(t, vbt_alpha);
	struct vbt_record *no_ids = vbt_driver_new(t, NULL);

	if (!t->failed) {
		no_probe->drv.probe = NULL;
		vbt_expect(t, vbt_driver_add(no_probe), "a driver without probe was accepted");
		vbt_expect(t, vbt_driver_add(no_ids), "a driver without table was accepted");
	}
	vbt_driver_free(no_probe);
	vbt_driver_free(no_ids);
}

static int vbt_probe_later(struct vbt_drv *drv, struct vbt_dev *dev, const struct vbt_id *id)
{
	return drv->probes++ ? 0 : -EPROBE_DEFER;
}

static void vbt_U13(struct vbt_test *t)
{
	static const struct vbt_id beta[] = {
		{ VBT_MATCH(VBT_MOD, "beta"), 1 },
		{ }
	};
	struct vbt_record *later = vbt_driver_new(t, vbt_alpha);
	struct vbt_record *other = vbt_driver_new(t, beta);
	struct vbt_dev *dev = vbt_make("alpha"), *trigger = NULL;
	unsigned long end;

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	later->drv.probe = vbt_probe_later;
	vbt_expect_eq(t, vbt_driver_add(later), 0);
	vbt_expect_eq(t, vbt_driver_add(other), 0);
	/* The core tries again whenever some device was bound. */
	trigger = vbt_make("beta");
	end = jiffies + 20 * HZ;
	while (!READ_ONCE(vbt_device(dev)->driver) && time_before(jiffies, end))
		msleep(20);
	device_lock(vbt_device(dev));
	vbt_expect(t, vbt_bound(dev), "a deferred device was not bound later");
	device_unlock(vbt_device(dev));
out:
	vbt_driver_free(other);
	vbt_driver_free(later);
	vbt_unmake(trigger);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

static void vbt_U15(struct vbt_test *t)
{
	struct vbt_record *bad = vbt_driver_new(t, vbt_alpha);
	struct vbt_record *good = vbt_driver_new(t, vbt_alpha);
	struct vbt_dev *dev = vbt_make("alpha");

	vbt_expect_eq(t, PTR_ERR_OR_ZERO(dev), 0);
	if (t->failed)
		goto out;
	bad->error = -EIO;
	bad->drvdata = bad;
	vbt_expect_eq(t, vbt_driver_add(bad), 0);
	vbt_expect_eq(t, bad->drv.probes, 1);
	vbt_expect_eq(t, bad->drv.removes, 0);
	vbt_expect(t, !vbt_bound(dev), "bound although probe failed");
	vbt_expect(t, !dev_get_drvdata(vbt_device(dev)),
		   "driver data is left after a failed probe");
	vbt_driver_del(bad);
	vbt_expect_eq(t, vbt_driver_add(good), 0);
	vbt_expect(t, vbt_bound(dev), "the next driver cannot bind after a failed probe");
out:
	vbt_driver_free(bad);
	vbt_driver_free(good);
	vbt_unmake(dev);
	vbt_expect_released(t);
}

/* Some that fail on purpose, so that failures can be seen to be seen. */

static void vbt_X01(struct vbt_test *t)
{
	vbt_expect_eq(t, 1 + 1, 3);
}

static void vbt_X02(struct vbt_test *t)
{
	WRITE_ONCE(*(int *)16, 1);
}

static void vbt_X03(struct vbt_test *t)
{
	ssleep(5 * limit);
}

#define VBT_TEST(test_id, symbol, test_words) { .id = test_id, .words = test_words, .run = symbol }

static struct vbt_test vbt_tests[] = {
	VBT_TEST("R01", vbt_R01, "a device lies below its parent"),
	VBT_TEST("R01.orphan", vbt_R01_orphan, "a device without parent is refused"),
	VBT_TEST("R04", vbt_R04, "a match leaves the device as it is"),
	VBT_TEST("R06", vbt_R06, "uevents have the alias that modules are loaded by"),
	VBT_TEST("R07", vbt_R07, "an allocation that fails leaves nothing"),
	VBT_TEST("R09", vbt_R09, "a number is free after the last put and not before"),
	VBT_TEST("R10", vbt_R10, "2000 devices at once leave no number behind"),
	VBT_TEST("R11", vbt_R11, "nothing is written to a device after its release"),
	VBT_TEST("R14", vbt_R14, "the device is embedded and has driver data"),
	VBT_TEST("R14.release", vbt_R14_release, "a device without release function is refused"),
	VBT_TEST("R15", vbt_R15, "the creator's name string is not kept"),
	VBT_TEST("R16", vbt_R16, "names of two modules do not collide"),
	VBT_TEST("R16.stable", vbt_R16_stable, "names do not depend on other modules"),
	VBT_TEST("R17", vbt_R17, "a driver needs no callback but probe"),
	VBT_TEST("R17.calls", vbt_R17_calls, "suspend, resume and shutdown reach the driver once"),
	VBT_TEST("R25", vbt_R25, "devices of one driver are independent"),
	VBT_TEST("R27", vbt_R27, "200 times unbound and bound"),
	VBT_TEST("U02", vbt_U02, "callbacks are either the bus's or the driver's"),
	VBT_TEST("U03", vbt_U03, "the creator's put is the last one"),
	VBT_TEST("U04", vbt_U04, "a device that was never added can be given up"),
	VBT_TEST("U05", vbt_U05, "an allocation that fails is an error"),
	VBT_TEST("U06", vbt_U06, "a table ends at its empty entry"),
	VBT_TEST("U07", vbt_U07, "a name of any length matches or is refused"),
	VBT_TEST("U07.entry", vbt_U07_entry, "a table's name without end is refused"),
	VBT_TEST("U09", vbt_U09, "a driver without probe or table is refused"),
	VBT_TEST("U13", vbt_U13, "a deferred probe is tried again"),
	VBT_TEST("U15", vbt_U15, "a failed probe leaves the device to the next driver"),
	/* Where a bad bus dies, so last: what it leaves would be in the way of others. */
	VBT_TEST("R08", vbt_R08, "a device that cannot be added leaves nothing"),
	VBT_TEST("U08", vbt_U08, "odd names are refused"),
	VBT_TEST("U01", vbt_U01, "suspend and shutdown of an unbound device"),
	{ .id = "X01", .run = vbt_X01, .words = "a check that fails", .asked = true },
	{ .id = "X02", .run = vbt_X02, .words = "a test that oopses", .asked = true },
	{ .id = "X03", .run = vbt_X03, .words = "a test that takes too long", .asked = true },
};

/* Running them */

/* Whether ``item`` names the test: by its id, or by what is before the id's dot. */
static bool vbt_names(const char *item, size_t length, const char *id)
{
	return !strncmp(item, id, length) && (!id[length] || id[length] == '.');
}

static bool vbt_selected(const struct vbt_test *t)
{
	const char *item = only;
	size_t length;

	if (!only || !*only)
		return !t->asked;
	for (; *item; item += length + (item[length] == ',')) {
		length = strcspn(item, ",\n");
		if (length && vbt_names(item, length, t->id))
			return true;
		if (item[length] == '\n')
			break;
	}
	return false;
}

static const struct vbt_exempt *vbt_exempted(const struct vbt_test *t)
{
	const struct vbt_exempt *e;

	for (e = vbt_exempt; e->id; e++)
		if (vbt_names(e->id, strlen(e->id), t->id))
			return e;
	return NULL;
}

static int vbt_thread(void *data)
{
	struct vbt_test *t = data;

	t->run(t);
	if (atomic_xchg(&t->over, 1))
		module_put_and_kthread_exit(0);
	/* Not complete() and return: the module may go at once. */
	kthread_complete_and_exit(&t->done, 0);
}

/* Fail a test that does not end. Its thread goes on in this module's code, which stays for it. */
static void vbt_give_up(struct vbt_test *t)
{
	if (*vbt_died)
		t->skip = vbt_died;
	else
		vbt_fail(t, "the test does not end");
	__module_get(THIS_MODULE);
	if (atomic_xchg(&t->over, 1))
		module_put(THIS_MODULE);
}

static void vbt_run_in_thread(struct vbt_test *t)
{
	unsigned long end = jiffies + (*vbt_died ? max(limit / 10, 1U) : limit) * HZ;
	struct task_struct *task;

	init_completion(&t->done);
	task = kthread_create(vbt_thread, t, "vbt-%s", t->id);
	if (!vbt_expect(t, !IS_ERR(task), "no thread"))
		return;
	get_task_struct(task);
	wake_up_process(task);
	while (!wait_for_completion_timeout(&t->done, HZ / 10)) {
		if (READ_ONCE(task->exit_state) && !completion_done(&t->done)) {
			vbt_fail(t, "the test's thread died");
			snprintf(vbt_died, sizeof(vbt_died), "it does not end, after %s died",
				 t->id);
			break;
		}
		if (time_after(jiffies, end)) {
			vbt_give_up(t);
			break;
		}
	}
	put_task_struct(task);
	WRITE_ONCE(vbt_generation, vbt_generation + 1);
	atomic_set(&vbt_made, 0);
	atomic_set(&vbt_released, 0);
}

static void vbt_run(struct vbt_test *t, int number)
{
	const struct vbt_exempt *exempt = vbt_exempted(t);

	if (exempt && exempt->kind == VBT_CANNOT) {
		t->failed = true;
		pr_info("not ok %d %s %s # CANNOT %s\n", number, t->id, t->words, exempt->why);
		return;
	}
	if (exempt)
		t->skip = exempt->why;
	else
		vbt_run_in_thread(t);
	if (t->failed)
		pr_info("not ok %d %s %s\n", number, t->id, t->words);
	else if (t->skip)
		pr_info("ok %d %s %s # SKIP %s\n", number, t->id, t->words, t->skip);
	else
		pr_info("ok %d %s %s\n", number, t->id, t->words);
}

static int __init vbt_test_init(void)
{
	int i, planned = 0, number = 0, failed = 0, skipped = 0;

	for (i = 0; i < ARRAY_SIZE(vbt_parents); i++) {
		vbt_parents[i] = root_device_register(i ? VBT_MOD "_p1" : VBT_MOD "_p0");
		if (IS_ERR(vbt_parents[i])) {
			while (i--)
				root_device_unregister(vbt_parents[i]);
			return -ENODEV;
		}
	}
	for (i = 0; i < ARRAY_SIZE(vbt_tests); i++)
		planned += vbt_selected(&vbt_tests[i]);
	pr_info("KTAP version 1\n");
	pr_info("1..%d\n", planned);
	pr_info("# vbt_test: adapter %s\n", VBT_NAME);
	for (i = 0; i < ARRAY_SIZE(vbt_tests); i++) {
		if (!vbt_selected(&vbt_tests[i]))
			continue;
		vbt_run(&vbt_tests[i], ++number);
		failed += vbt_tests[i].failed;
		skipped += !vbt_tests[i].failed && vbt_tests[i].skip;
	}
	pr_info("# vbt_test: %d failed, %d passed, %d skipped\n", failed,
		planned - failed - skipped, skipped);
	return 0;
}
module_init(vbt_test_init);

static void __exit vbt_test_exit(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(vbt_parents); i++)
		root_device_unregister(vbt_parents[i]);
}
module_exit(vbt_test_exit);

MODULE_DESCRIPTION("Conformance tests of a bus that matches by name");
MODULE_LICENSE("GPL");
